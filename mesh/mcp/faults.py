"""Turns the errors that an MCP server answers into the mesh's. The one place that knows JSON-RPC error codes."""

import re

from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    PARSE_ERROR,
    REQUEST_TIMEOUT,
    UNSUPPORTED_PROTOCOL_VERSION,
    URL_ELICITATION_REQUIRED,
)

from mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from mesh.mcp.frames import UNREADABLE

RESOURCE_NOT_FOUND = -32002
"""Resource not found up to 2025-11-25; since 2026-07-28 it is INVALID_PARAMS."""

_PROTOCOL_FAULTS = (PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR, HEADER_MISMATCH, UNSUPPORTED_PROTOCOL_VERSION)
_INPUT_WANTED = (MISSING_REQUIRED_CLIENT_CAPABILITY, URL_ELICITATION_REQUIRED)
_NOT_FOUND = re.compile(r"(?i)\b(not found|unknown|no such|does(n't| not) exist)\b")


def error_from_mcp(err: MCPError, *, server: str, method: str) -> MeshError:
    """Convert a JSON-RPC error that `server` answered to `method`."""
    said = err.message.strip()[:2000] or "it gave no message"
    if err.error.data == UNREADABLE:
        return unreadable(server, method, said)
    if err.code == CONNECTION_CLOSED:
        summary = f"The connection to MCP server {server!r} ended during {method}: {said}."
        return Unavailable(summary, reason="MCP_SERVER_LOST")
    if err.code == METHOD_NOT_FOUND:
        return Unimplemented(
            f"MCP server {server!r} does not offer {method}.",
            reason="MCP_METHOD_NOT_FOUND",
            fix="GetServer tells the server's capabilities.",
        )
    summary = f"MCP server {server!r} refused {method}: {said} (JSON-RPC code {err.code})."
    if err.code == RESOURCE_NOT_FOUND or (
        err.code == INVALID_PARAMS and method == "resources/read" and (_names_uri(err) or says_unknown(said))
    ):
        return NotFound(summary, reason="MCP_NOT_FOUND", field="uri", fix="ListResources tells the URIs.")
    if err.code == INVALID_PARAMS:
        return InvalidInput(summary, reason="MCP_INVALID_PARAMS")
    if err.code == REQUEST_TIMEOUT:
        return DeadlineExceeded(summary, reason="MCP_TIMEOUT")
    if err.code in _INPUT_WANTED:
        return input_wanted(server, method)
    if err.code in _PROTOCOL_FAULTS:
        return Internal(summary, reason="MCP_SERVER_ERROR")
    return FailedPrecondition(summary, reason="MCP_SERVER_ERROR")


def input_wanted(server: str, method: str) -> FailedPrecondition:
    """The error for a server that wants to ask its caller something during a typed call."""
    return FailedPrecondition(
        f"MCP server {server!r} wants input from the caller before it answers {method}; a typed call cannot give any.",
        reason="MCP_INPUT_REQUIRED",
        fix="Use Link with an MCP client that supports elicitation, sampling or roots.",
    )


def unreadable(server: str, method: str, why: str) -> ResourceExhausted:
    """The error for an answer that came and could not be read."""
    return ResourceExhausted(
        f"MCP server {server!r} answered {method}, but {why}.",
        reason="MCP_UNREADABLE_ANSWER",
        fix="Ask for less at a time, or raise the bridge's --max-frame-bytes.",
        retryable=False,
    )


def too_late(server: str, method: str, seconds: float) -> DeadlineExceeded:
    """The error for an answer that did not come in time."""
    return DeadlineExceeded(
        f"MCP server {server!r} has not answered {method} within {seconds:.3g} s.",
        reason="MCP_TIMEOUT",
        fix="Give the call more time, or look at what the server is doing.",
    )


def bad_answer(server: str, method: str, why: str) -> Internal:
    """The error for an answer that does not fit the protocol."""
    return Internal(
        f"MCP server {server!r} answered {method} with something that does not fit the protocol: {why}.",
        reason="MCP_BAD_ANSWER",
        fix="Report it to the server's authors; Link shows the answer as it is.",
    )


def may_mean_unknown(error: MeshError) -> bool:
    """Tell whether a server may have meant "no such tool" or "no such prompt": servers use all sorts of codes."""
    return isinstance(error, InvalidInput | Internal | FailedPrecondition) and error.reason != "MCP_INPUT_REQUIRED"


def says_unknown(message: str) -> bool:
    """Tell whether a server's message sounds like "there is no such thing"."""
    return _NOT_FOUND.search(message) is not None


def leaf_of(error: BaseException) -> BaseException:
    """Return the error that matters in a tree of exception groups: a MeshError before anything else."""
    leaves = _leaves(error)
    return next((leaf for leaf in leaves if isinstance(leaf, MeshError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for child in error.exceptions for leaf in _leaves(child)]
    return [error]


def _names_uri(err: MCPError) -> bool:
    return isinstance(err.error.data, dict) and "uri" in err.error.data
