"""Texts: counts and differences."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated

from pydantic import Field

from services.tool_server import InvalidArgument, Result

__all__ = ["Difference", "TextStatistics", "WordCount", "diff_texts", "text_statistics"]

MAX_CHARACTERS = 1_000_000
MAX_LINES = 5_000

_LARGEST_SEARCH = 250_000
"""Pairs of equal lines up to which all of them are looked at: about two seconds in the worst case found."""
_NO_NEWLINE = "\\ No newline at end of file"

# Each starts at one place of a run only and never gives back what it took: else a million dots take for ever.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+(?=\s|\Z)|[。！？]")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_WORDS_PER_MINUTE = 238
"""Silent reading of English non-fiction: Brysbaert, Journal of Memory and Language 109 (2019), 104047."""


class WordCount(Result):
    """A word and how often it stands."""

    word: str
    count: int


class TextStatistics(Result):
    """Counts of a text; lengths are in characters. Words are letters and digits: it's, well-known and 3.14 are one."""

    characters: int
    characters_without_spaces: int
    bytes_in_utf8: int
    words: int
    unique_words: int
    sentences: int
    paragraphs: int
    lines: int
    average_word_length: float
    average_sentence_words: float
    reading_minutes: float
    most_frequent: list[WordCount]


class Difference(Result):
    """How two texts differ, line by line. `ratio` is 1 for equal texts and 0 for those without a common line."""

    diff: str
    added: int
    removed: int
    ratio: float
    are_equal: bool


def text_statistics(text: Annotated[str, Field(max_length=MAX_CHARACTERS)]) -> TextStatistics:
    """Count characters, words, sentences, paragraphs and lines of a text."""
    word = _word_pattern()
    # Not findall, which holds the interpreter, and so every other call, until it is through.
    words = [found[0] for found in word.finditer(text)]
    folded = Counter(unicodedata.normalize("NFC", found.casefold()) for found in words)
    sentences = sum(1 for part in _SENTENCE_END.split(text) if word.search(part))
    return TextStatistics(
        characters=len(text),
        characters_without_spaces=sum(not character.isspace() for character in text),
        bytes_in_utf8=len(text.encode(errors="replace")),
        words=len(words),
        unique_words=len(folded),
        sentences=sentences,
        paragraphs=sum(1 for part in _PARAGRAPH_END.split(text) if part.strip()),
        lines=len(text.splitlines()),
        average_word_length=round(sum(map(len, words)) / len(words), 2) if words else 0.0,
        average_sentence_words=round(len(words) / sentences, 2) if sentences else 0.0,
        reading_minutes=round(len(words) / _WORDS_PER_MINUTE, 2),
        most_frequent=[WordCount(word=found, count=count) for found, count in folded.most_common(10)],
    )


def diff_texts(
    before: Annotated[str, Field(max_length=MAX_CHARACTERS)],
    after: Annotated[str, Field(max_length=MAX_CHARACTERS)],
    context: Annotated[int, Field(ge=0, le=100, description="unchanged lines shown around a change")] = 3,
) -> Difference:
    """Compare two texts of at most 5000 lines each, line by line, as a unified diff that `patch` can apply."""
    old, new = _lines(before, "before"), _lines(after, "after")
    start, end = _common_ends(old, new)
    # Equal lines at both ends are no search; those next to the change are its context.
    skipped = max(0, start - context)
    kept = max(0, end - context)
    old_part, new_part = old[skipped : len(old) - kept], new[skipped : len(new) - kept]
    matcher = difflib.SequenceMatcher(None, old_part, new_part, autojunk=_is_large_search(old_part, new_part))
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    added = sum(stop - first for _, _, _, first, stop in changes)
    removed = sum(stop - first for _, first, stop, _, _ in changes)
    total = len(old) + len(new)
    return Difference(
        diff="\n".join(_unified(matcher, old_part, new_part, context, skipped)) if changes else "",
        added=added,
        removed=removed,
        ratio=round((total - added - removed) / total, 4) if total else 1.0,
        are_equal=before == after,
    )


@cache
def _word_pattern() -> re.Pattern[str]:
    # What \w leaves out: the accents and vowel signs of many scripts, and the joiners between letters.
    marks = "".join(re.escape(chr(code)) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")
    # Groups are not possessive: before Python 3.11.5 these may match what they should not.
    letters = rf"[^\W_]+(?:[{marks}\u200c\u200d]+[^\W_]*)*"
    return re.compile(rf"{letters}(?:(?:['’-]|(?<=\d)[.,](?=\d)){letters})*")


def _lines(text: str, field: str) -> list[str]:
    """The lines, each with its end: a change of line ends is a change."""
    lines = text.split("\n")
    if len(lines) > MAX_LINES + 1:
        raise InvalidArgument(
            field, f"it has {len(lines) - 1} lines; at most {MAX_LINES} are compared.", "Compare it in parts."
        )
    ended = [f"{line}\n" for line in lines[:-1]]
    return [*ended, lines[-1]] if lines[-1] else ended


def _common_ends(old: Sequence[str], new: Sequence[str]) -> tuple[int, int]:
    """How many lines both begin with, and how many of the rest both end with."""
    shortest = min(len(old), len(new))
    start = next((number for number in range(shortest) if old[number] != new[number]), shortest)
    rest = shortest - start
    end = next((number for number in range(rest) if old[-1 - number] != new[-1 - number]), rest)
    return start, end


def _is_large_search(old: Sequence[str], new: Sequence[str]) -> bool:
    counts = Counter(new)
    return sum(counts[line] for line in old) > _LARGEST_SEARCH


def _unified(
    matcher: "difflib.SequenceMatcher[str]", old: Sequence[str], new: Sequence[str], context: int, skipped: int
) -> Iterator[str]:
    yield from ("--- before", "+++ after")
    for group in matcher.get_grouped_opcodes(context):
        _, first_old, _, first_new, _ = group[0]
        _, _, last_old, _, last_new = group[-1]
        yield f"@@ -{_span(first_old, last_old, skipped)} +{_span(first_new, last_new, skipped)} @@"
        for kind, old_from, old_to, new_from, new_to in group:
            if kind == "equal":
                yield from _marked(" ", old[old_from:old_to])
            else:
                yield from _marked("-", old[old_from:old_to])
                yield from _marked("+", new[new_from:new_to])


def _span(first: int, last: int, skipped: int) -> str:
    length = last - first
    # As POSIX diff has it: of an empty range, the line before it.
    begin = first + skipped + (1 if length else 0)
    return f"{begin}" if length == 1 else f"{begin},{length}"


def _marked(mark: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield mark + line.removesuffix("\n")
        if not line.endswith("\n"):
            yield _NO_NEWLINE
