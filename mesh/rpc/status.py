"""Errors on the wire: MeshError <-> gRPC status with google.rpc details.

Source: the error model of google.rpc.Status, https://google.aip.dev/193.
"""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from agentmesh.error.v1 import error_pb2
from mesh import errors
from mesh.errors import MeshError

DOMAIN = "agentmesh"
"""The domain of our google.rpc.ErrorInfo."""

DETAILS_KEY = "grpc-status-details-bin"
"""The metadata key under which gRPC carries a google.rpc.Status."""

_CODES: dict[type[MeshError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Canceled: grpc.StatusCode.CANCELLED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
_CLASSES = {code: kind for kind, code in _CODES.items()} | {
    grpc.StatusCode.ABORTED: errors.FailedPrecondition,
    grpc.StatusCode.UNKNOWN: errors.Internal,
    grpc.StatusCode.DATA_LOSS: errors.Internal,
}

_RETRY_DELAY_NANOS = 100_000_000

# All of a status travels in HTTP/2 headers, percent- or base64-encoded, and gRPC takes 8 KB of them by default.
_LONGEST_MESSAGE = 1024
_LONGEST_PART = 512
_MOST_VIOLATIONS = 3


def code_of(error: MeshError) -> grpc.StatusCode:
    """The gRPC status code of an error."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.INTERNAL)


def error_to_status(error: MeshError, *, service: str = "", correlation_id: str = "") -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo, our ErrorDetail and, for a retryable error, RetryInfo."""
    code = code_of(error)
    raised_by = _cut(error.service or service, _LONGEST_PART)
    summary = _cut(error.summary, _LONGEST_MESSAGE)
    field = _cut(error.field, _LONGEST_PART)
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=_cut(str(error), _LONGEST_MESSAGE))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if raised_by:
        info.metadata["service"] = raised_by
    detail = error_pb2.ErrorDetail(
        reason=error.reason,
        summary=summary,
        field=field,
        fix=_cut(error.fix, _LONGEST_PART),
        service=raised_by,
        retryable=error.retryable,
        correlation_id=correlation_id,
    )
    status.details.add().Pack(info)
    status.details.add().Pack(detail)
    if code is grpc.StatusCode.INVALID_ARGUMENT and (violations := _violations_of(error)):
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
    if error.retryable:
        retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=_RETRY_DELAY_NANOS))
        status.details.add().Pack(retry)
    return status


def _violations_of(error: MeshError) -> list[error_details_pb2.BadRequest.FieldViolation]:
    """The fields at fault; of a document the first few, as headers have no room for all."""
    found = [(error.field, error.summary)] if error.field else []
    if isinstance(error, errors.DocumentInvalid):
        found = [(fault.field, f"{fault.source}, line {fault.line}: {fault.reason}") for fault in error.faults]
    return [
        error_details_pb2.BadRequest.FieldViolation(
            field=_cut(field, _LONGEST_PART), description=_cut(text, _LONGEST_PART)
        )
        for field, text in found[:_MOST_VIOLATIONS]
    ]


def error_from_rpc(error: grpc.RpcError) -> MeshError:
    """The MeshError that a failed call stands for; details of ours are kept, a foreign status gets the code's class."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return errors.Internal(str(error))
    kind = _CLASSES.get(error.code(), errors.Internal)
    detail = _detail_of(error)
    if detail is None:
        return kind(error.details() or error.code().name, retryable=error.code() is grpc.StatusCode.UNAVAILABLE)
    return kind(
        detail.summary,
        reason=detail.reason,
        field=detail.field,
        fix=detail.fix,
        service=detail.service,
        retryable=detail.retryable,
    )


def _detail_of(error: grpc.aio.AioRpcError) -> error_pb2.ErrorDetail | None:
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
    except (ValueError, DecodeError):  # garbage, or its code or message differs from the call's: not to be trusted
        return None
    for packed in status.details if status is not None else ():
        detail = error_pb2.ErrorDetail()
        if packed.Is(detail.DESCRIPTOR) and packed.Unpack(detail):
            return detail
    return None


def _cut(text: str, most: int) -> str:
    """The text in at most `most` bytes of UTF-8; what has no UTF-8 form (half of a surrogate pair) becomes "?"."""
    encoded = text.encode(errors="replace")
    if len(encoded) > most:
        return encoded[: most - 3].decode(errors="ignore") + "…"
    return encoded.decode()
