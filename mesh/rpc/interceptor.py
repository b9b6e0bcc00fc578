"""What happens around every call that a server takes.

One interceptor does all of it, because each further one costs a coroutine per call: room check, correlation id, trace
context, caller, default deadline, error mapping, metrics and the log line.
"""

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from opentelemetry import context as trace_context
from opentelemetry import metrics
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh.errors import DeadlineExceeded, Internal, MeshError, ResourceExhausted
from mesh.model import SpiffeId
from mesh.rpc.call_io import CallIo
from mesh.rpc.context import USER_TOKEN, CallContext, current_call, parse_caller, parse_spiffe_ids
from mesh.rpc.handlers import Behaviour, Handler, behaviour_of, rebuild
from mesh.rpc.status import DETAILS_KEY, code_of, error_from_rpc, error_to_status
from mesh.telemetry import correlation_id, get_logger, is_tracing

_log = get_logger(__name__)

# Probes and introspection must work when the server is full, and would drown the log.
EXEMPT = ("/grpc.health.", "/grpc.reflection.")

_CORRELATION_ID = re.compile(r"[!-~]{1,128}")
_MOST_METHODS = 4096
_TRACE_KEYS = ("traceparent", "tracestate")
_propagator = TraceContextTextMapPropagator()
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_no_limit: contextlib.AbstractAsyncContextManager[None] = contextlib.nullcontext()

# A failure of a service further on that says nothing of this one's defects. Any other one is a defect of this one:
# its caller must not read "not found" about something that it never asked for.
_PASSED_ON = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of one server; `in_flight` counts the calls that are running.

    `is_behind_sidecar` says that whoever connects is the own sidecar, whose word on the caller holds.
    """

    def __init__(
        self, service: str, *, default_deadline: float, max_concurrent: int, is_behind_sidecar: bool = False
    ) -> None:
        self.in_flight = 0
        self._idle: asyncio.Event | None = None
        self._service = service
        self._default_deadline = default_deadline
        self._max_concurrent = max_concurrent
        self._is_behind_sidecar = is_behind_sidecar
        # With spans, OpenTelemetry's own interceptor has taken the trace context in already.
        self._takes_trace = not is_tracing()
        # Bound once: a lazy logger is bound anew by each line.
        self._log = _log.bind()
        self._logs_success = self._log.is_enabled_for(logging.DEBUG)
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        meter = metrics.get_meter("agentmesh")
        self._duration = meter.create_histogram("rpc.server.duration", unit="ms", description="Time per call.")
        self._running = meter.create_up_down_counter("rpc.server.in_flight", description="Calls that are running.")
        self._rejected = meter.create_counter("rpc.server.rejected", description="Calls refused for want of room.")

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no handler runs, for up to `timeout` seconds; tell whether that is so. For the end, once."""
        if self.in_flight:
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._idle.wait()
        return self.in_flight == 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(EXEMPT):
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = (handler, self._wrap(handler, method))
            # A generic handler may answer to any name; the names come from outside.
            if len(self._wrapped) < _MOST_METHODS:
                self._wrapped[method] = known
        return known[1]

    def _wrap(self, handler: Handler, method: str) -> Handler:
        is_unary = not handler.request_streaming and not handler.response_streaming
        deadline = self._default_deadline if is_unary else None
        around = self._around(
            behaviour_of(handler, method), method, deadline, answers_once=not handler.response_streaming
        )
        return rebuild(handler, around)

    def _around(
        self, behaviour: Behaviour, method: str, default_deadline: float | None, *, answers_once: bool
    ) -> Behaviour:
        attributes = _attributes(method)

        async def call(request: Any, context: Any) -> Any:
            started = time.monotonic()
            left = context.time_remaining()
            limit = asyncio.timeout(default_deadline) if left is None and default_deadline is not None else None
            facts, trace_token = self._enter(method, context, started, default_deadline if left is None else left)
            self.in_flight += 1
            self._running.add(1, attributes)
            code = grpc.StatusCode.OK
            io = CallIo(context, (("x-correlation-id", facts.correlation_id),))
            try:
                if self.in_flight > self._max_concurrent:
                    self._rejected.add(1, attributes)
                    raise _full(self._max_concurrent)
                async with limit or _no_limit:
                    answer = await behaviour(request, io)
                # A handler may catch its cancellation and return; gRPC sees then that nobody is left to be answered.
                code = _code_of_cancelled(started, facts) if _is_cancelled() else _code(context)
                if answers_once and code is grpc.StatusCode.OK:
                    await io.open()
                else:
                    await io.settle()
                return answer
            except asyncio.CancelledError as err:
                if not _is_cancelled():
                    code = grpc.StatusCode.INTERNAL
                    await self._abort(io, self._mesh_error(_stray(err), method), facts)
                code = _code_of_cancelled(started, facts)
                raise
            except Exception as err:  # the one place where errors become statuses
                cause = _single(err)
                if isinstance(cause, grpc.aio.AbortError):
                    code = _code(context)
                    raise cause from None
                if _is_cancelled() and _is_of_grpc(cause):
                    # What the handler still wanted to send came too late; that is no defect.
                    code = _code_of_cancelled(started, facts)
                    raise asyncio.CancelledError from err
                is_late = limit is not None and limit.expired()
                error = _too_late(default_deadline) if is_late else self._mesh_error(cause, method)
                code = code_of(error)
                await self._abort(io, error, facts)
            finally:
                self.in_flight -= 1
                self._running.add(-1, attributes)
                self._leave(facts, started, code, attributes)
                if trace_token is not None:
                    trace_context.detach(trace_token)
                if self._idle is not None and self.in_flight == 0:
                    self._idle.set()

        return call

    def _enter(self, method: str, context: Any, started: float, left: float | None) -> tuple[CallContext, Any]:
        identifier = forwarded = user = ""
        trace: dict[str, str] = {}
        for name, value in context.invocation_metadata() or ():
            if name == "x-correlation-id":
                identifier = value
            elif name == "x-forwarded-client-cert":
                forwarded = value
            elif name == USER_TOKEN:
                user = value
            elif name in _TRACE_KEYS:
                trace[name] = value
        if _CORRELATION_ID.fullmatch(identifier) is None:
            identifier = uuid.uuid4().hex
        facts = CallContext(
            method=method,
            correlation_id=identifier,
            caller=parse_caller(forwarded) if self._is_behind_sidecar else _peer(context),
            ends_at=None if left is None else started + left,
            user_token=user,
        )
        # Each call is a task of its own, with its own variables: nothing is to be set back.
        current_call.set(facts)
        correlation_id.set(identifier)
        token = trace_context.attach(_propagator.extract(trace)) if trace and self._takes_trace else None
        return facts, token

    def _leave(
        self, facts: CallContext, started: float, code: grpc.StatusCode, attributes: dict[str, str | int]
    ) -> None:
        elapsed = (time.monotonic() - started) * 1e3
        self._duration.record(elapsed, {**attributes, "rpc.grpc.status_code": code.value[0]})
        is_success = code is grpc.StatusCode.OK
        if is_success and not self._logs_success:
            return
        log = self._log.debug if is_success else self._log.info
        caller = str(facts.caller or "")
        log("call_served", method=facts.method, code=code.name, duration_ms=round(elapsed, 3), caller=caller)

    def _mesh_error(self, err: Exception, method: str) -> MeshError:
        """What the caller is told; what it is not told is logged."""
        if isinstance(err, MeshError):
            return err
        if isinstance(err, grpc.aio.AioRpcError) and err.code() in _PASSED_ON:
            return error_from_rpc(err)
        self._log.error("handler_failed", method=method, exc_info=err)
        return Internal("The service met an unexpected error.", fix="Its log has the details.")

    async def _abort(self, io: CallIo, error: MeshError, facts: CallContext) -> NoReturn:
        status = error_to_status(error, service=self._service, correlation_id=facts.correlation_id)
        try:
            await io.abort(code_of(error), status.message, ((DETAILS_KEY, status.SerializeToString()),))
        except grpc.aio.UsageError as err:
            # The caller has gone meanwhile, and nobody is left to be told.
            raise asyncio.CancelledError from err


def _attributes(method: str) -> dict[str, str | int]:
    service, _, name = method.lstrip("/").partition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def _code(context: Any) -> grpc.StatusCode:
    """The code that the handler has set, which gRPC keeps as a number, or OK."""
    code = context.code()
    return code if isinstance(code, grpc.StatusCode) else _BY_NUMBER.get(code or 0, grpc.StatusCode.UNKNOWN)


def _code_of_cancelled(started: float, facts: CallContext) -> grpc.StatusCode:
    # gRPC rounds up what a client sends as its deadline, by up to two per cent, so that the client itself ends first.
    is_late = facts.ends_at is not None and time.monotonic() - started >= 0.98 * (facts.ends_at - started)
    return grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED


def _is_cancelled() -> bool:
    """Whether somebody cancels this call, and not a thing that its handler waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _single(err: Exception) -> Exception:
    """What is in a group of one; a handler's TaskGroup makes such of each error."""
    while isinstance(err, ExceptionGroup) and len(err.exceptions) == 1:
        err = err.exceptions[0]
    return err


def _is_of_grpc(err: Exception) -> bool:
    if isinstance(err, ExceptionGroup):
        return all(_is_of_grpc(one) for one in err.exceptions)
    return isinstance(err, grpc.aio.BaseError)


def _stray(err: asyncio.CancelledError) -> RuntimeError:
    """gRPC takes any cancellation for that of the call, sends no status, and the caller waits for ever."""
    stray = RuntimeError("The handler has waited for something that was cancelled.")
    stray.__cause__ = err
    return stray


def _peer(context: Any) -> SpiffeId | None:
    """Who the TLS handshake says has called; None without a client certificate."""
    return parse_spiffe_ids([uri.decode() for uri in context.auth_context().get("peer_spiffe_id", ())])


def _full(most: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"The service already works on {most} calls, which is the most that it takes at once.",
        reason="TOO_MANY_CALLS",
        fix="Try again in a moment.",
    )


def _too_late(deadline: float | None) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"The call took longer than the default of {deadline:g} s.", fix="Name a longer deadline in the call."
    )
