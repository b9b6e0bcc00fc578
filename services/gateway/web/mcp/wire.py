"""What travels between a host and the gateway: messages of JSON-RPC, put together around JSON that nobody reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import (
    DeadlineExceeded,
    InvalidInput,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from mesh.mcp.frames import dump_json

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# Of the range that the specification leaves to implementations, -32000 to -32019.
SESSION_NOT_FOUND = -32001
REFUSED = -32003
OVER_LIMIT = -32004
UNAVAILABLE = -32005
TIMED_OUT = -32006

RequestId = str | int

PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
CLIENT_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
SERVER_INFO = "io.modelcontextprotocol/serverInfo"

MODERN = ("2026-07-28",)
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Revisions, newest first."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: `result` or `error` is JSON of an object, the other one None."""

    result: bytes | None = None
    error: bytes | None = None
    retry_after: int = field(default=0, compare=False)
    """Seconds after which trying again may help; 0 when that is not known."""

    @property
    def needs_input(self) -> bool:
        """Whether the server wants to be told something before it goes on."""
        # Nearly no result has the words at all, and reading them all would cost more than the rest.
        if self.result is None or b'"input_required"' not in self.result:
            return False
        return bool(json.loads(self.result).get("resultType") == "input_required")

    def message(self, request_id: RequestId) -> bytes:
        """The response to a request."""
        if self.error is not None:
            return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (dump_json(request_id), self.error)
        return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (dump_json(request_id), self.result)


def notification(method: str, params: bytes) -> bytes:
    """A notification; `params` is JSON of an object, or empty."""
    return b'{"jsonrpc":"2.0","method":%s%s}' % (dump_json(method), b',"params":' + params if params else b"")


def question(request_id: RequestId, method: str, params: bytes) -> bytes:
    """A request to the host."""
    more = b',"params":' + params if params else b""
    return b'{"jsonrpc":"2.0","id":%s,"method":%s%s}' % (dump_json(request_id), dump_json(method), more)


def failure(code: int, text: str, data: Mapping[str, Any] | None = None) -> Outcome:
    """The outcome of a request that failed here."""
    error: dict[str, Any] = {"code": code, "message": text}
    if data:
        error["data"] = data
    return Outcome(error=dump_json(error))


def failure_of(error: MeshError) -> Outcome:
    """What a host is told of an error: the words, and as data what a program can use."""
    match error:
        case PermissionDenied() | Unauthenticated():
            code = REFUSED
        case ResourceExhausted():
            code = OVER_LIMIT
        case InvalidInput() | NotFound():
            code = INVALID_PARAMS
        case DeadlineExceeded():
            code = TIMED_OUT
        case Unavailable():
            code = UNAVAILABLE
        case _:
            code = INTERNAL_ERROR
    facts = {"reason": error.reason, "field": error.field, "fix": error.fix, "server": error.service}
    text = f"{error.summary} {error.fix}" if error.fix else error.summary
    return failure(code, text, {name: value for name, value in facts.items() if value})
