"""The door: an ASGI application for one URL, which tells the eras apart."""

import json
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from mesh.mcp.frames import DEFAULT_MAX_FRAME_BYTES, BadFrame, dump_json
from services.gateway.web.entrance import Entrance
from services.gateway.web.mcp.answer import send_json, status_of
from services.gateway.web.mcp.backend import Backend
from services.gateway.web.mcp.handshake import HandshakeHost
from services.gateway.web.mcp.modern import ModernHost
from services.gateway.web.mcp.rebinding import check_page
from services.gateway.web.mcp.wire import HANDSHAKE, INVALID_REQUEST, MODERN, PARSE_ERROR, PROTOCOL_VERSION

_ALLOW = (b"allow", b"GET, POST, DELETE, OPTIONS")


class Door:
    """Serves hosts; `find` gives what is behind a path, and the path by which sessions know it."""

    def __init__(
        self,
        find: Callable[[Scope], tuple[Backend, str]],
        modern: ModernHost,
        handshake: HandshakeHost,
        entrance: Entrance,
        origins: Callable[[], tuple[str, ...]],
    ) -> None:
        self._find = find
        self._modern = modern
        self._handshake = handshake
        self._entrance = entrance
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises MeshError for what there is no door for."""
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(pairs)
        check_page(headers, self._origins())
        caller, send = await self._entrance.let_in(scope["path"], scope["query_string"], headers, send)
        backend, door = self._find(scope)
        match scope["method"]:
            case "POST":
                pass
            case "GET":
                await self._handshake.get(backend, door, caller, headers, receive, send)
                return
            case "DELETE":
                await self._handshake.delete(door, caller, headers, send)
                return
            case _:
                await send_json(send, 405, b"", _ALLOW)
                return
        try:
            frame = _read(headers, await _body(receive))
        except BadFrame as bad:
            error = {"code": bad.code, "message": str(bad)}
            body = dump_json({"jsonrpc": "2.0", "id": bad.request_id, "error": error})
            await send_json(send, status_of(bad.code), body)
            return
        if _is_handshake(frame, headers):
            await self._handshake.post(backend, door, caller, frame, headers, receive, send)
        elif "method" in frame:
            await self._modern.serve(backend, door, caller, frame, pairs, receive, send)
        else:
            text = "In this era the server asks nothing that could be answered so."
            error = {"code": INVALID_REQUEST, "message": text}
            await send_json(send, 400, dump_json({"jsonrpc": "2.0", "id": None, "error": error}))


async def _body(receive: Receive) -> bytes:
    """All of a body. Raises BadFrame when it is too long."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    pieces = bytearray(body)
    while message.get("more_body"):
        message = await receive()
        pieces += message.get("body", b"")
        if len(pieces) > DEFAULT_MAX_FRAME_BYTES:
            raise BadFrame(INVALID_REQUEST, f"the body is longer than {DEFAULT_MAX_FRAME_BYTES} bytes")
    return bytes(pieces)


def _read(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """One message of JSON-RPC. Raises BadFrame."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadFrame(INVALID_REQUEST, "Content-Type must be application/json")
    try:
        frame = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise BadFrame(PARSE_ERROR, "Parse error: the body is not JSON") from err
    if not isinstance(frame, dict) or frame.get("jsonrpc") != "2.0":
        raise BadFrame(INVALID_REQUEST, "The body must be one message of JSON-RPC 2.0")
    request_id = frame.get("id", "")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int):
        raise BadFrame(INVALID_REQUEST, "The id must be a string or an integer")
    is_call = isinstance(frame.get("method"), str)
    is_answer = "method" not in frame and "id" in frame and ("result" in frame) != ("error" in frame)
    if not (is_call or is_answer):
        raise BadFrame(INVALID_REQUEST, "The body is neither a request, a notification nor a response", request_id)
    if is_call and not isinstance(frame.get("params", {}), dict):
        raise BadFrame(INVALID_REQUEST, "params must be an object", request_id)
    return frame


def _is_handshake(frame: dict[str, Any], headers: dict[str, str]) -> bool:
    """Whether a message belongs to a session. The header says so; else what is in the message."""
    version = headers.get("mcp-protocol-version")
    if version in MODERN:
        return False
    if "mcp-session-id" in headers or frame.get("method") == "initialize":
        return True
    if version is not None:
        return version in HANDSHAKE
    meta = (frame.get("params") or {}).get("_meta")
    return not (isinstance(meta, dict) and PROTOCOL_VERSION in meta)
