"""What shows that an answer may be given."""

from dataclasses import replace

import pytest

from mesh.access import Principal
from services.gateway.cache import Question
from services.gateway.cache.kept import Entry

QUESTION = Question("tools", "p.S/Read", b"request", Principal("user", "ann", roles=("a", "b")), b"generation")
EPOCH = b"e" * 16


@pytest.mark.parametrize(
    "other",
    [
        replace(QUESTION, service="other"),
        replace(QUESTION, method="p.S/Other"),
        replace(QUESTION, request=b"other"),
        replace(QUESTION, generation=b"other"),
        replace(QUESTION, generation=b"generationr", request=b"equest"),
        replace(QUESTION, principal=Principal("user", "bob", roles=("a", "b"))),
        replace(QUESTION, principal=Principal("key", "ann", roles=("a", "b"))),
        replace(QUESTION, principal=Principal("user", "ann", roles=("a",))),
        replace(QUESTION, principal=Principal("user", "ann", roles=("ab",))),
        replace(QUESTION, principal=Principal("user", "ann", roles=("a", "b"), login="l")),
        replace(QUESTION, principal=Principal("user", "ann", roles=("a", "b"), issuer="i")),
        replace(QUESTION, principal=Principal("user", "", roles=("a", "b"), issuer="ann")),
        replace(QUESTION, principal=Principal("user", "ann", roles=("b",), login="a")),
    ],
)
def test_questions_that_differ_have_digests_that_differ(other: Question) -> None:
    assert other.digest != QUESTION.digest


def test_the_order_of_roles_makes_no_difference() -> None:
    assert replace(QUESTION, principal=Principal("user", "ann", roles=("b", "a"))).digest == QUESTION.digest


def test_an_entry_reads_back_as_it_was() -> None:
    entry = Entry(b"body", 1234.5)
    assert Entry.from_bytes(entry.to_bytes(QUESTION.digest, EPOCH), QUESTION.digest, EPOCH) == entry


def test_an_entry_of_another_question_or_epoch_is_none() -> None:
    data = Entry(b"body", 1.0).to_bytes(QUESTION.digest, EPOCH)
    assert Entry.from_bytes(data, b"o" * 32, EPOCH) is None
    assert Entry.from_bytes(data, QUESTION.digest, b"o" * 16) is None


@pytest.mark.parametrize("data", [None, b"", b"x", b"\x02" + bytes(100), b"garbage" * 20])
def test_what_is_no_entry_is_none(data: bytes | None) -> None:
    assert Entry.from_bytes(data, QUESTION.digest, EPOCH) is None


def test_tags_are_the_same_for_the_same_bytes_only() -> None:
    assert Entry(b"body", 1.0).etag == Entry(b"body", 2.0).etag != Entry(b"other", 1.0).etag
