"""Texts: counts and differences."""

import difflib
import re
from collections import Counter
from typing import Annotated

from pydantic import Field

from services.tool_server import InvalidArgument, Result

__all__ = ["Difference", "TextStatistics", "WordCount", "diff_texts", "text_statistics"]

MAX_CHARACTERS = 1_000_000
MAX_LINES = 5_000

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?:\s+|$)")
_WORDS_PER_MINUTE = 238
"""Silent reading of English non-fiction: Brysbaert, Journal of Memory and Language 109 (2019), 104047."""


class WordCount(Result):
    """A word and how often it stands."""

    word: str
    count: int


class TextStatistics(Result):
    """Counts of a text. Words are runs of letters and digits; lengths are in characters."""

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
    words = _WORD.findall(text)
    folded = Counter(word.casefold() for word in words)
    ends = len(_SENTENCE_END.findall(text))
    rest = _SENTENCE_END.split(text)[-1]
    sentences = ends + (1 if _WORD.search(rest) else 0) if words else 0
    return TextStatistics(
        characters=len(text),
        characters_without_spaces=sum(not character.isspace() for character in text),
        bytes_in_utf8=len(text.encode(errors="replace")),
        words=len(words),
        unique_words=len(folded),
        sentences=sentences,
        paragraphs=sum(1 for part in re.split(r"\n\s*\n", text) if part.strip()),
        lines=len(text.splitlines()),
        average_word_length=round(sum(map(len, words)) / len(words), 2) if words else 0.0,
        average_sentence_words=round(len(words) / sentences, 2) if sentences else 0.0,
        reading_minutes=round(len(words) / _WORDS_PER_MINUTE, 2),
        most_frequent=[WordCount(word=word, count=count) for word, count in folded.most_common(10)],
    )


def diff_texts(
    before: Annotated[str, Field(max_length=MAX_CHARACTERS)],
    after: Annotated[str, Field(max_length=MAX_CHARACTERS)],
    context: Annotated[int, Field(ge=0, le=100, description="unchanged lines shown around a change")] = 3,
) -> Difference:
    """Compare two texts line by line, as a unified diff."""
    old, new = _lines(before, "before"), _lines(after, "after")
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=True)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    diff = difflib.unified_diff(old, new, "before", "after", n=context, lineterm="")
    return Difference(
        diff="\n".join(diff),
        added=sum(end - start for _, _, _, start, end in changes),
        removed=sum(end - start for _, start, end, _, _ in changes),
        ratio=round(matcher.ratio(), 4),
        are_equal=before == after,
    )


def _lines(text: str, field: str) -> list[str]:
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise InvalidArgument(
            field, f"it has {len(lines)} lines; at most {MAX_LINES} are compared.", "Compare it in parts."
        )
    return lines
