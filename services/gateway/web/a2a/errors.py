"""Errors of the mesh as errors of A2A, on all bindings the same.

A2A names nine errors of its own; for all else it leaves the code to the binding. Those get a reason of ours, and on
JSON-RPC a code outside of the ranges that JSON-RPC and A2A keep for themselves: -31000 less the status of HTTP.
"""

from a2a.server.jsonrpc_models import JSONRPCError
from a2a.server.request_handlers import grpc_handler, response_helpers
from a2a.utils import errors as sdk
from a2a.utils.errors import A2AError, ErrorMapping

from mesh import errors
from mesh.errors import MeshError
from mesh.rpc.status import code_of
from services.gateway.web.problems import http_status_of


class RefusedError(A2AError):
    """Of a kind that A2A has no name for; there is a class for each status."""


def _refusals() -> dict[type[MeshError], type[RefusedError]]:
    kinds = (
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.AlreadyExists,
        errors.ResourceExhausted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Canceled,
    )
    made: dict[type[MeshError], type[RefusedError]] = {}
    for kind in kinds:
        error = kind("")
        made[kind] = refused = type(f"{kind.__name__}Error", (RefusedError,), {})
        status = http_status_of(error)
        # The SDK has no other way to be told of further errors than its tables.
        sdk.A2A_ERROR_MAPPING[refused] = ErrorMapping(status, code_of(error).name, error.reason)
        sdk.A2A_ERROR_REASONS[refused] = error.reason
        sdk.JSON_RPC_ERROR_CODE_MAP[refused] = -31000 - status
        response_helpers.EXCEPTION_MAP[refused] = JSONRPCError
        grpc_handler._ERROR_CODE_MAP[refused] = code_of(error)
    return made


_REFUSALS = _refusals()
_BY_REASON: dict[str, type[A2AError]] = {
    "UNKNOWN_TASK": sdk.TaskNotFoundError,
    "TASK_OF_OTHER_INSTANCE": sdk.TaskNotFoundError,
    "TASK_NOT_WAITING": sdk.UnsupportedOperationError,
    "CONTENT_TYPE_NOT_SUPPORTED": sdk.ContentTypeNotSupportedError,
}
_BY_CLASS: tuple[tuple[type[MeshError], type[A2AError]], ...] = (
    *_REFUSALS.items(),
    (errors.InvalidInput, sdk.InvalidParamsError),
    (errors.OutOfRange, sdk.InvalidParamsError),
    (errors.NotFound, sdk.InvalidParamsError),
    (errors.FailedPrecondition, sdk.UnsupportedOperationError),
    (errors.Unimplemented, sdk.UnsupportedOperationError),
)


def to_a2a(error: MeshError) -> A2AError:
    """The error of A2A for one of the mesh, with the field at fault where there is one."""
    kind = _BY_REASON.get(error.reason)
    if kind is None:
        kind = next((theirs for ours, theirs in _BY_CLASS if isinstance(error, ours)), sdk.InternalError)
    data: dict[str, object] = {"meshReason": error.reason}
    if kind is sdk.InvalidParamsError and error.field:
        data["errors"] = [{"field": error.field, "message": error.summary}]
    return kind(f"{error.summary} {error.fix}".strip(), data=data)
