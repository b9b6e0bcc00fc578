"""Errors of MCP servers as errors of the mesh."""

from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from mesh.errors import (
    FailedPrecondition,
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from mesh.mcp.faults import error_from_mcp, leaf_of
from mesh.mcp.frames import UNREADABLE


@pytest.mark.parametrize(
    ("code", "method", "message", "data", "expected"),
    [
        (-32602, "tools/call", "n is missing", None, InvalidInput),
        (-32601, "prompts/list", "Method not found", None, Unimplemented),
        (-32002, "resources/read", "Resource not found", None, NotFound),
        (-32602, "resources/read", "Unknown resource", None, NotFound),
        (-32602, "resources/read", "Invalid params", {"uri": "a:b"}, NotFound),
        (-32602, "resources/read", "Invalid params", None, InvalidInput),
        (-32603, "tools/call", "boom", None, Internal),
        (-32700, "tools/call", "boom", None, Internal),
        (-32000, "tools/call", "Connection closed", None, Unavailable),
        (-32021, "tools/call", "needs sampling", None, FailedPrecondition),
        (-32042, "tools/call", "go there", None, FailedPrecondition),
        (0, "tools/call", "boom", None, FailedPrecondition),
        (-32603, "tools/call", "too large", UNREADABLE, ResourceExhausted),
    ],
)
def test_codes(code: int, method: str, message: str, data: Any, expected: type[MeshError]) -> None:
    error = error_from_mcp(MCPError(code, message, data), server="s", method=method)
    assert type(error) is expected
    assert "'s'" in error.summary
    assert method in error.summary


def test_an_unreadable_answer_is_not_worth_a_retry() -> None:
    error = error_from_mcp(MCPError(-32603, "too large", UNREADABLE), server="s", method="tools/call")
    assert not error.retryable
    assert "--max-frame-bytes" in error.fix


def test_the_mesh_error_is_found_in_nested_groups() -> None:
    wanted = Unavailable("x")
    group = BaseExceptionGroup("", [ValueError(), BaseExceptionGroup("", [KeyError(), wanted])])
    assert leaf_of(group) is wanted
    assert isinstance(leaf_of(ExceptionGroup("", [KeyError()])), KeyError)
    assert leaf_of(wanted) is wanted
