"""Conversion of what servers answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.mcp.v1 import mcp_pb2 as pb
from mesh.mcp.calls import LOG_LEVELS, LogNews
from mesh.mcp.convert import (
    content_to_proto,
    log_level_from_proto,
    log_to_proto,
    prompt_to_proto,
    resource_contents_to_proto,
    resource_template_to_proto,
    resource_to_proto,
    server_info_to_proto,
    tool_result_to_proto,
    tool_to_proto,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@given(st.dictionaries(st.text(), JSON))
def test_schemas_and_structured_content_keep_their_meaning(value: dict[str, Any]) -> None:
    tool = tool_to_proto({"name": "t", "inputSchema": value, "outputSchema": value, "_meta": value})
    result = tool_result_to_proto({"content": [], "structuredContent": value})
    for text in (tool.input_schema, tool.output_schema, tool.meta, result.structured_content):
        found = json.loads(text)
        assert found == value
        assert repr(found) == repr(value)  # 1 and 1.0 are equal, but not the same


def test_every_kind_of_content() -> None:
    shared = {"annotations": {"priority": 1}, "_meta": {"k": 1}}
    text = content_to_proto({"type": "text", "text": "hi", **shared})
    assert (text.text.text, json.loads(text.annotations), json.loads(text.meta)) == ("hi", {"priority": 1}, {"k": 1})
    assert content_to_proto({"type": "image", "data": "AP8=", "mimeType": "image/png"}).image.data == b"\x00\xff"
    assert content_to_proto({"type": "audio", "data": "AA==", "mimeType": "audio/wav"}).audio.mime_type == "audio/wav"
    embedded = content_to_proto({"type": "resource", "resource": {"uri": "a:b", "blob": "AP8="}})
    assert embedded.resource.blob == b"\x00\xff"
    link = content_to_proto({"type": "resource_link", "uri": "a:b", "name": "n", "size": 3, **shared})
    assert (link.resource_link.uri, link.resource_link.size) == ("a:b", 3)
    assert json.loads(link.resource_link.meta) == {"k": 1}
    other = content_to_proto({"type": "hologram", "x": 1})
    assert json.loads(other.other) == {"type": "hologram", "x": 1}


def test_empty_text_and_empty_blob_are_told_apart() -> None:
    assert resource_contents_to_proto({"uri": "a:b", "text": ""}).WhichOneof("content") == "text"
    assert resource_contents_to_proto({"uri": "a:b", "blob": ""}).WhichOneof("content") == "blob"


def test_hints_that_are_absent_stay_absent() -> None:
    tool = tool_to_proto({"name": "t", "inputSchema": {}, "annotations": {"readOnlyHint": False}})
    assert tool.annotations.HasField("read_only_hint") and not tool.annotations.read_only_hint
    assert not tool.annotations.HasField("open_world_hint")


def test_icons_with_sizes_of_either_form() -> None:
    icons = [{"src": "a:1", "sizes": "48x48"}, {"src": "a:2", "sizes": ["any", "1x1"]}, {"src": "a:3"}]
    tool = tool_to_proto({"name": "t", "inputSchema": {}, "icons": icons})
    assert [list(icon.sizes) for icon in tool.icons] == [["48x48"], ["any", "1x1"], []]


@pytest.mark.parametrize(("size", "expected"), [(7, 7), (7.0, 7), (-1, None), (2**64, None), ("7", None), (True, None)])
def test_a_size_that_is_none_is_absent(size: Any, expected: int | None) -> None:
    resource = resource_to_proto({"uri": "a:b", "size": size})
    assert (resource.size if resource.HasField("size") else None) == expected


def test_server_info_of_either_era() -> None:
    handshake = server_info_to_proto({"serverInfo": {"name": "n", "version": "1"}}, "2025-11-25")
    modern = server_info_to_proto(
        {"_meta": {"io.modelcontextprotocol/serverInfo": {"name": "n", "version": "1"}}, "capabilities": {"x": {}}}, "v"
    )
    assert (handshake.name, modern.name) == ("n", "n")
    assert (handshake.capabilities, modern.capabilities) == (b"{}", b'{"x":{}}')
    assert server_info_to_proto({}, "v").name == ""


@pytest.mark.parametrize(
    ("convert", "raw"),
    [
        (tool_to_proto, {}),
        (tool_to_proto, {"name": 5}),
        (tool_to_proto, {"name": "t", "description": ["x"]}),
        (tool_to_proto, {"name": "t", "icons": "x"}),
        (tool_to_proto, {"name": "t", "inputSchema": {"x": float("nan")}}),
        (resource_to_proto, {"name": "x"}),
        (resource_template_to_proto, {"name": "x"}),
        (prompt_to_proto, {"name": "p", "arguments": [1]}),
        (content_to_proto, {"type": "text"}),
        (content_to_proto, {"type": "image", "data": "not base64!"}),
        (content_to_proto, {"type": "resource", "resource": "x"}),
        (resource_contents_to_proto, {"uri": "a:b"}),
        (tool_result_to_proto, {"content": {}}),
        (tool_result_to_proto, {"content": ["x"]}),
    ],
)
def test_what_does_not_fit_the_protocol_is_an_error(convert: Callable[[Any], Any], raw: Any) -> None:
    with pytest.raises(ValueError):
        convert(raw)


def test_log_levels_there_and_back() -> None:
    for name in LOG_LEVELS:
        assert log_level_from_proto(log_to_proto(LogNews(name, "", None)).level) == name
    assert log_level_from_proto(pb.LOG_LEVEL_UNSPECIFIED) is None
    assert log_level_from_proto(99) == "emergency"


def test_a_log_message_with_nan_is_still_told() -> None:
    assert json.loads(log_to_proto(LogNews("info", "x", float("nan"))).data) == "nan"
