import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.utilities.texts import diff_texts

Call = Callable[..., Awaitable[dict[str, Any]]]
Refusal = Callable[..., Awaitable[str]]
TEXTS = st.lists(st.sampled_from(["a\n", "b\n", "c\r\n", "\n", "d"]), max_size=20).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "It's fine. Is it?\n\nYes",
            {"characters": 22, "words": 5, "sentences": 3, "paragraphs": 2, "lines": 3, "unique_words": 5},
        ),
        ("", {"characters": 0, "words": 0, "sentences": 0, "lines": 0, "average_word_length": 0.0}),
        ("... !!! ?", {"words": 0, "sentences": 0}),
        ('Wait... what?! "Yes." Well-known: 3.14 and 1,000.', {"words": 7, "sentences": 4}),
        # Vowel signs and joiners belong to the word; a letter with its accent apart is the same letter.
        ("हिन्दी में", {"words": 2, "characters": 10}),
        ("café cafe\u0301", {"words": 2, "unique_words": 1}),
        ("你好。再见！", {"words": 2, "sentences": 2}),
        ("é", {"characters": 1, "bytes_in_utf8": 2}),
    ],
)
async def test_known_statistics(call: Call, text: str, expected: dict[str, Any]) -> None:
    assert expected.items() <= (await call("text_statistics", text=text)).items()


async def test_the_most_frequent_words_come_first_whatever_their_case(call: Call) -> None:
    found = await call("text_statistics", text="The cat and the dog and THE bird")
    assert found["most_frequent"][:2] == [{"word": "the", "count": 3}, {"word": "and", "count": 2}]
    assert found["reading_minutes"] == pytest.approx(8 / 238, abs=0.01)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["." * 999_999 + "x", "." + '"' * 999_998 + "x", "a-" * 500_000, "\n" + " " * 999_998 + "x", "_" * 10**6]
)
async def test_no_text_takes_for_ever(call: Call, text: str) -> None:
    found = await call("text_statistics", text=text)
    assert found["characters"] == len(text)


async def test_a_diff_is_unified(call: Call) -> None:
    found = await call("diff_texts", before="a\nb\nc\n", after="a\nB\nc\nd\n", context=1)
    assert found == {
        "diff": "--- before\n+++ after\n@@ -1,3 +1,4 @@\n a\n-b\n+B\n c\n+d",
        "added": 2,
        "removed": 1,
        "ratio": 0.5714,
        "are_equal": False,
    }


async def test_equal_texts_have_no_diff(call: Call) -> None:
    expected = {"diff": "", "added": 0, "removed": 0, "ratio": 1.0, "are_equal": True}
    assert await call("diff_texts", before="a\nb", after="a\nb") == expected
    assert await call("diff_texts", before="", after="") == expected


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [("a", "a\n", ["-a", "\\ No newline at end of file", "+a"]), ("a\r\n", "a\n", ["-a\r", "+a"])],
)
async def test_a_change_of_line_ends_only_is_a_change(call: Call, before: str, after: str, lines: list[str]) -> None:
    found = await call("diff_texts", before=before, after=after)
    assert found["diff"].split("\n")[3:] == lines
    assert found["are_equal"] is False


async def test_one_change_among_many_equal_lines_is_one_change(call: Call) -> None:
    found = await call("diff_texts", before="a\n" * 300, after="b\n" + "a\n" * 299)
    assert (found["added"], found["removed"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"before": "a\n" * 5_001}, "before: it has 5001 lines; at most 5000 are compared. Compare it in parts."),
        ({"before": "a" * 1_000_001}, "before: 1000001 characters; at most 1000000 are accepted"),
        ({"before": "a", "context": 101}, "context: input should be less than or equal to 100"),
    ],
)
async def test_texts_too_large_to_compare_are_refused(refusal: Refusal, arguments: dict[str, Any], words: str) -> None:
    assert words in await refusal("diff_texts", **{"after": "", **arguments})


@given(TEXTS, TEXTS, st.integers(0, 3))
def test_the_diff_leads_from_one_text_to_the_other(before: str, after: str, context: int) -> None:
    found = diff_texts(before, after, context)
    assert apply_diff(before, found.diff) == after


def apply_diff(before: str, diff: str) -> str:
    """The text after a unified diff, whose kept and removed lines must stand where it says."""
    old = before.split("\n")
    old = [f"{line}\n" for line in old[:-1]] + ([old[-1]] if old[-1] else [])
    new: list[str] = []
    at = 0
    lines = diff.split("\n")[2:]
    for number, line in enumerate(lines):
        if header := re.match(r"@@ -(\d+)(?:,(\d+))? ", line):
            start = int(header[1]) - (header[2] != "0")
            new += old[at:start]
            at = start
            continue
        if line.startswith("\\"):
            continue
        has_no_newline = number + 1 < len(lines) and lines[number + 1].startswith("\\")
        text = line[1:] + ("" if has_no_newline else "\n")
        if line[0] in " -":
            assert old[at] == text
            at += 1
        if line[0] in " +":
            new.append(text)
    return "".join(new + old[at:])
