"""JSON-RPC frames: what is one, which request an unreadable one answers, and error frames of our own."""

import json
import re
from typing import Any, NoReturn

from mesh.mcp.lines import EDGE_BYTES, OversizeLine

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INTERNAL_ERROR = -32603

DEFAULT_MAX_FRAME_BYTES = 4 * 1024 * 1024

UNREADABLE = {"agentmesh": "UNREADABLE_ANSWER"}
"""`data` of the error with which the bridge itself answers a call whose answer it could not read."""

RequestId = str | int | None

_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"'
_ID = rb'"id"\s*:\s*(-?\d{1,18}|"(?:[^"\\]|\\.){0,200}")'
# Only places where the id cannot belong to a nested object: before the first nested value, or before the last brace.
_ID_AT_HEAD = re.compile(
    rb"\s*\{\s*(?:" + _VERSION + rb"\s*,\s*)?" + _ID + rb"\s*,\s*(?:" + _VERSION + rb'\s*,\s*)?"(?:result|error)"\s*:'
)
_ID_AT_TAIL = re.compile(
    rb"[}\]]\s*,\s*(?:" + _VERSION + rb"\s*,\s*)?" + _ID + rb"\s*(?:,\s*" + _VERSION + rb"\s*)?\}\s*\Z"
)
_RESULT_AT_HEAD = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb'\s*,\s*)?"(?:result|error)"\s*:')


class BadFrame(ValueError):
    """Bytes that are not a JSON-RPC message; says why, with the JSON-RPC code and the id to answer with."""

    def __init__(self, code: int, message: str, request_id: RequestId = None) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


def parse_frame(message: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Read one JSON-RPC 2.0 message; raises BadFrame for anything else, a batch included."""
    if len(message) > max_bytes:
        # The id is not looked for in a request: reading it would mean reading all of it.
        raise BadFrame(INVALID_REQUEST, f"frame of {len(message)} bytes is larger than the {max_bytes} allowed")
    if b"\n" in message or b"\r" in message:
        raise BadFrame(INVALID_REQUEST, "frame has a line break; send the JSON on one line")
    try:
        frame = json.loads(message.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        raise BadFrame(PARSE_ERROR, f"frame is not JSON: {err}") from None
    if not isinstance(frame, dict):
        raise BadFrame(INVALID_REQUEST, "frame is not a JSON object; batches are not part of MCP")
    request_id = frame.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | None):
        raise BadFrame(INVALID_REQUEST, "the id is neither a string nor an integer")
    if frame.get("jsonrpc") != "2.0":
        raise BadFrame(INVALID_REQUEST, 'frame has no "jsonrpc": "2.0"', request_id)
    is_call = isinstance(frame.get("method"), str) and ("id" not in frame or request_id is not None)
    is_answer = "method" not in frame and "id" in frame and ("result" in frame) != ("error" in frame)
    if not is_call and not is_answer:
        raise BadFrame(INVALID_REQUEST, "frame is neither a request, a notification nor a response", request_id)
    return frame


def build_error_frame(code: int, message: str, request_id: RequestId = None) -> bytes:
    """Write a JSON-RPC error response on one line."""
    error = {"code": code, "message": message}
    return dump_json({"jsonrpc": "2.0", "id": request_id, "error": error})


def answered_id(line: bytes | OversizeLine) -> str | int | None:
    """Find the id of the request that an unreadable answer belongs to, or None when that is not certain."""
    head, tail = (line.head, line.tail) if isinstance(line, OversizeLine) else (line[:EDGE_BYTES], line[-EDGE_BYTES:])
    found = _ID_AT_HEAD.match(head)
    if found is None and _RESULT_AT_HEAD.match(head):
        found = _ID_AT_TAIL.search(tail)
    if found is None:
        return None
    try:
        value = json.loads(found.group(1))
    except ValueError:
        return None
    return value if isinstance(value, str | int) else None


def dump_json(value: Any) -> bytes:
    """Write compact UTF-8 JSON; raises ValueError for what JSON cannot say (NaN, infinities, lone surrogates)."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def load_json_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object, integers of any size kept; empty bytes are an empty object. Raises ValueError."""
    if not text:
        return {}
    try:
        value = json.loads(text.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if b"\\u" in text:
        try:
            dump_json(value)
        except UnicodeEncodeError:
            raise ValueError("it has half of a surrogate pair") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
