import os

import pytest

from mesh.errors import InvalidInput, NotFound, Unavailable
from services.gateway.web.mcp.sessions import LIFE, Sealer, Sessions

OLD, NEW = os.urandom(32), os.urandom(32)
CLIENT = {"name": "host", "version": "1"}


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


def begin(sessions, **changed):
    facts = {"principal": "key:a", "door": "/mcp", "version": "2025-11-25", "client": CLIENT, "capabilities": {}}
    return sessions.begin(**(facts | changed))


def test_every_gateway_with_the_key_takes_a_session():
    session, text = begin(Sessions(Sealer(lambda: [NEW])), capabilities={"roots": {}})
    found = Sessions(Sealer(lambda: [NEW])).find(text, "key:a", "/mcp")
    assert found == session
    assert text.isascii()
    assert text.isprintable()


def test_nothing_of_a_session_can_be_read_in_its_id():
    _, text = begin(Sessions(Sealer(lambda: [NEW])))
    assert "key:a" not in text


@pytest.mark.parametrize(("principal", "door"), [("key:b", "/mcp"), ("anonymous", "/mcp"), ("key:a", "/servers/x/mcp")])
def test_a_session_counts_for_nobody_else_and_at_no_other_door(principal, door):
    sessions = Sessions(Sealer(lambda: [NEW]))
    _, text = begin(sessions)
    with pytest.raises(NotFound):
        sessions.find(text, principal, door)


def test_a_changed_id_is_none():
    sessions = Sessions(Sealer(lambda: [NEW]))
    _, text = begin(sessions)
    for forged in (text[:-2], text[:-2] + ("AA" if text[-2:] != "AA" else "BB"), "", "x" * 100_000, "ü", text + "A"):
        with pytest.raises(NotFound):
            sessions.find(forged, "key:a", "/mcp")


def test_sessions_outlive_the_next_key_and_end_with_their_own():
    _, text = begin(Sessions(Sealer(lambda: [OLD])))
    assert Sessions(Sealer(lambda: [NEW, OLD])).find(text, "key:a", "/mcp")
    with pytest.raises(NotFound):
        Sessions(Sealer(lambda: [NEW])).find(text, "key:a", "/mcp")


def test_a_session_ends_after_a_week():
    clock = Clock()
    sessions = Sessions(Sealer(lambda: [NEW]), clock=clock)
    _, text = begin(sessions)
    clock.now += LIFE + 1
    with pytest.raises(NotFound):
        sessions.find(text, "key:a", "/mcp")


def test_a_host_that_says_too_much_of_itself_is_refused():
    with pytest.raises(InvalidInput):
        begin(Sessions(Sealer(lambda: [NEW])), client={"name": "x" * 5000})


def test_without_a_key_nothing_is_sealed():
    with pytest.raises(Unavailable):
        begin(Sessions(Sealer(list)))


def test_what_was_sealed_for_one_purpose_is_nothing_for_another():
    sealer = Sealer(lambda: [NEW])
    assert sealer.open(sealer.seal({"a": 1}, "one"), "one") == {"a": 1}
    assert sealer.open(sealer.seal({"a": 1}, "one"), "other") is None


def test_digests_differ_by_each_part_and_by_the_key():
    sealer = Sealer(lambda: [NEW])
    digests = {sealer.digest("a", "bc"), sealer.digest("ab", "c"), Sealer(lambda: [OLD]).digest("a", "bc")}
    assert len(digests) == 3
