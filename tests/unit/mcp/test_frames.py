"""Frames: what is one, and whose an unreadable answer is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.mcp.frames import (
    BadFrame,
    answered_id,
    build_error_frame,
    dump_json,
    load_json_object,
    parse_frame,
)
from mesh.mcp.lines import LineSplitter, OversizeLine

GOOD = [
    {"jsonrpc": "2.0", "id": 1, "method": "a"},
    {"jsonrpc": "2.0", "id": "x", "method": "a", "params": {}},
    {"jsonrpc": "2.0", "method": "a"},
    {"jsonrpc": "2.0", "id": 1, "result": {}},
    {"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": ""}},
]
BAD: list[Any] = [
    {},
    {"jsonrpc": "1.0", "id": 1, "method": "a"},
    {"jsonrpc": "2.0", "id": 1},
    {"jsonrpc": "2.0", "id": True, "method": "a"},
    {"jsonrpc": "2.0", "id": None, "method": "a"},
    {"jsonrpc": "2.0", "id": 1, "method": 5},
    {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}},
    {"jsonrpc": "2.0", "result": {}},
    [{"jsonrpc": "2.0", "id": 1, "method": "a"}],
    "text",
    None,
]


@pytest.mark.parametrize("frame", GOOD)
def test_messages_are_frames(frame: dict[str, Any]) -> None:
    assert parse_frame(json.dumps(frame).encode(), max_bytes=1000) == frame


@pytest.mark.parametrize("frame", BAD)
def test_other_json_is_not_a_frame(frame: Any) -> None:
    with pytest.raises(BadFrame) as bad:
        parse_frame(json.dumps(frame).encode(), max_bytes=1000)
    assert bad.value.code == -32600


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_bad(message: bytes) -> None:
    try:
        parse_frame(message, max_bytes=100)
    except BadFrame as bad:
        assert json.loads(build_error_frame(bad.code, str(bad), bad.request_id))["error"]["code"] == bad.code


def test_error_frames_are_one_line() -> None:
    assert b"\n" not in build_error_frame(-32600, "two\nlines", "id")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "result", "a"]), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(st.integers(-(10**15), 10**15) | st.text(max_size=20), JSON, st.permutations(["jsonrpc", "id", "result"]))
def test_the_id_of_an_unreadable_answer_is_found(request_id: Any, result: Any, order: list[str]) -> None:
    message = {"jsonrpc": "2.0", "id": request_id, "result": {"value": result, "pad": "." * 2000}}
    line = json.dumps({key: message[key] for key in order}).encode()
    (oversize,) = LineSplitter(1500).feed(line + b"\n")
    assert isinstance(oversize, OversizeLine)
    assert answered_id(oversize) == request_id


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":',
        b'{"jsonrpc":"2.0","method":"x","params":{"id":5}}',
        b'{"result":{"a":[1],"id":5}}',
        b'{"id":{"id":5}}',
        b'text "id":5}',
        b"",
    ],
)
def test_no_id_is_guessed(line: bytes) -> None:
    assert answered_id(line) is None


def test_json_objects_keep_their_integers() -> None:
    assert load_json_object(b'{"a": 100000000000000000000000001, "b": 1.0}') == {"a": 10**26 + 1, "b": 1.0}
    assert (
        dump_json({"a": 10**26 + 1, "b": 1.0, "c": "☃"}) == '{"a":100000000000000000000000001,"b":1.0,"c":"☃"}'.encode()
    )
    assert load_json_object(b"") == {}


@pytest.mark.parametrize(
    "text", [b"[]", b"1", b"{", b'{"a":NaN}', b'{"a":Infinity}', b"\xff\xfe{\x00}\x00", b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        load_json_object(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        dump_json({"a": value})
