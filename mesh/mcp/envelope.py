"""What each request to a server must carry besides what it asks."""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    Implementation,
)

from mesh.mcp.negotiate import Era
from mesh.mcp.noise import NoiseLog

_TOKEN = re.compile(r"[\x21-\x7e]{1,64}")


class Envelope:
    """Adds `_meta` keys (modern era) and HTTP headers to requests; knows the headers that tools ask for.

    A tool's schema may ask that an argument is repeated in a header, so that proxies can route by it (SEP-2243):
    https://modelcontextprotocol.io/specification/2026-07-28/basic/transports
    """

    def __init__(self, client: Implementation, era: Era, version: str, noise: NoiseLog) -> None:
        self.era = era
        self._client = {"name": client.name, "version": client.version}
        self._version = version
        self._noise = noise
        self._header_maps: dict[str, dict[tuple[str, ...], str]] = {}

    def stamp(self, method: str, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the params to send and the headers to send them with, which only HTTP transports use."""
        if self.era is Era.HANDSHAKE:
            return params, {MCP_PROTOCOL_VERSION_HEADER: self._version}
        meta = {
            **params.get("_meta", {}),
            PROTOCOL_VERSION_META_KEY: self._version,
            CLIENT_INFO_META_KEY: self._client,
            CLIENT_CAPABILITIES_META_KEY: {},
        }
        params = {**params, "_meta": meta}
        return params, self.headers(method, params)

    def headers(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        """Return the headers that mirror a request of the modern era."""
        meta = params.get("_meta")
        version = meta.get(PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None
        headers = {
            MCP_PROTOCOL_VERSION_HEADER: version if _is_token(version) else self._version,
            MCP_METHOD_HEADER: method,
        }
        name = params.get(NAME_BEARING_METHODS.get(method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
            arguments = params.get("arguments")
            if method == "tools/call" and name in self._header_maps:
                headers |= mcp_param_headers(self._header_maps[name], arguments if isinstance(arguments, dict) else {})
        return headers

    def learn_all(self, result: Mapping[str, Any]) -> None:
        """Learn as `learn` does, and leave the result as it is: for clients that judge by themselves."""
        tools = result.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            self._learn_tool(tool)

    def learn(self, result: dict[str, Any]) -> None:
        """Learn from a result of `tools/list` what headers tools ask for.

        Takes tools out of it whose wishes are invalid: a client must not use them.
        """
        tools = result.get("tools")
        if self.era is Era.HANDSHAKE or not isinstance(tools, list):
            return
        result["tools"] = [tool for tool in tools if self._learn_tool(tool)]

    def knows(self, tool: Any) -> bool:
        """Tell whether a tool is known to ask for headers."""
        return tool in self._header_maps

    def _learn_tool(self, tool: Any) -> bool:
        name = tool.get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str):
            return True  # for whoever reads the list to refuse
        self._header_maps.pop(name, None)
        schema = tool.get("inputSchema")
        why = find_invalid_x_mcp_header(schema)
        if why is not None:
            self._noise.warn("mcp_tool_left_out", tool=name, why=why)
            return False
        header_map = x_mcp_header_map(schema)
        if header_map:
            self._header_maps[name] = header_map
        return True


def _is_token(version: Any) -> TypeGuard[str]:
    return isinstance(version, str) and _TOKEN.fullmatch(version) is not None
