"""Envelope: what the specification wants in each request (MCP 2026-07-28, basic/transports)."""

from mcp_types import Implementation

from mesh.mcp.envelope import Envelope
from mesh.mcp.negotiate import Era
from mesh.mcp.noise import NoiseLog

CLIENT = Implementation(name="c", version="1")


def make(era: Era) -> Envelope:
    return Envelope(CLIENT, era, "2026-07-28", NoiseLog("s"))


def test_handshake_requests_stay_as_they_are() -> None:
    params = {"name": "t", "_meta": {"k": 1}}
    assert make(Era.HANDSHAKE).stamp("tools/call", params) == (params, {"mcp-protocol-version": "2026-07-28"})


def test_modern_requests_say_who_asks_and_keep_their_meta() -> None:
    params, headers = make(Era.MODERN).stamp("tools/call", {"name": "ü", "_meta": {"k": 1}})
    assert params["_meta"]["k"] == 1
    assert params["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert params["_meta"]["io.modelcontextprotocol/clientInfo"] == {"name": "c", "version": "1"}
    assert params["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {}
    assert headers["mcp-method"] == "tools/call"
    assert headers["mcp-name"].startswith("=?base64?")


def test_a_caller_cannot_speak_for_the_bridge() -> None:
    meta = {"io.modelcontextprotocol/clientInfo": {"name": "evil"}}
    params, _ = make(Era.MODERN).stamp("tools/list", {"_meta": meta})
    assert params["_meta"]["io.modelcontextprotocol/clientInfo"] == {"name": "c", "version": "1"}


def test_arguments_are_repeated_in_the_headers_that_a_tool_asks_for() -> None:
    envelope = make(Era.MODERN)
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    envelope.learn({"tools": [{"name": "t", "inputSchema": schema}]})
    _, headers = envelope.stamp("tools/call", {"name": "t", "arguments": {"region": "eu"}})
    assert headers["Mcp-Param-Region"] == "eu"
    envelope.learn({"tools": [{"name": "t", "inputSchema": {}}]})
    _, headers = envelope.stamp("tools/call", {"name": "t", "arguments": {"region": "eu"}})
    assert "Mcp-Param-Region" not in headers


def test_tools_with_invalid_wishes_are_left_out() -> None:
    bad = {"name": "bad", "inputSchema": {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}}}
    good = {"name": "good", "inputSchema": {}}
    result = {"tools": [bad, good]}
    make(Era.MODERN).learn(result)
    assert result["tools"] == [good]
    result = {"tools": [bad, good]}
    make(Era.HANDSHAKE).learn(result)
    assert result["tools"] == [bad, good]
