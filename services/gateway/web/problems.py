"""Errors as problem details, RFC 9457, and never a stack trace."""

from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mesh.errors import Internal, MeshError, Unauthenticated
from mesh.rpc.status import code_of
from mesh.telemetry import get_logger
from services.gateway.guard.admission import challenge_of
from services.gateway.limits import OverLimit

# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_STATUS = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_log = get_logger(__name__)


def http_status_of(error: MeshError) -> int:
    """The HTTP status for an error."""
    return _STATUS.get(code_of(error).name, 500)


def problem_of(error: MeshError, correlation_id: str = "") -> Response:
    """The answer that tells a client of an error."""
    made = build_problem(
        http_status_of(error),
        error.summary,
        reason=error.reason,
        field=error.field,
        fix=error.fix,
        correlation_id=correlation_id,
    )
    made.headers["x-mesh-reason"] = error.reason
    if isinstance(error, Unauthenticated):
        made.headers["www-authenticate"] = challenge_of(error)
    if isinstance(error, OverLimit):
        made.headers.update(error.headers)
    return made


def build_problem(status: int, detail: str, **more: str) -> Response:
    """A problem with members of its own, empty ones left out."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    content |= {name: value for name, value in more.items() if value}
    return JSONResponse(content, status, media_type="application/problem+json", headers={"cache-control": "no-store"})


async def on_mesh_error(request: Request, error: Exception) -> Response:
    """For errors of ours that a route raises."""
    assert isinstance(error, MeshError)
    return problem_of(error, request.headers.get("x-correlation-id", ""))


async def on_http_error(request: Request, error: Exception) -> Response:
    """For what the router itself refuses: 404 and 405."""
    assert isinstance(error, HTTPException)
    detail = "There is nothing at this path; /openapi.json tells what there is." if error.status_code == 404 else ""
    made = build_problem(
        error.status_code, detail or error.detail, correlation_id=request.headers.get("x-correlation-id", "")
    )
    made.headers.update(error.headers or {})
    return made


async def on_defect(request: Request, error: Exception) -> Response:
    """For everything else: the log has the details, the client has not."""
    _log.error("web_request_failed", path=request.url.path, exc_info=error)
    return problem_of(
        Internal("The gateway met an unexpected error.", fix="Its log has the details."),
        request.headers.get("x-correlation-id", ""),
    )
