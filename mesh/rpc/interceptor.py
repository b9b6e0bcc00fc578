"""What happens around every call that a server takes.

One interceptor does all of it, because each further one costs a coroutine per call: room check, correlation id, trace
context, caller, default deadline, error mapping, metrics and the log line.
"""

import asyncio
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any, NoReturn

import grpc
from opentelemetry import context as trace_context
from opentelemetry import metrics, propagate

from mesh.errors import DeadlineExceeded, Internal, MeshError, ResourceExhausted
from mesh.rpc.context import CallContext, current_call, parse_caller
from mesh.rpc.status import code_of, error_to_status
from mesh.telemetry import correlation_id, get_logger

_log = get_logger(__name__)

# Probes and introspection must work when the server is full, and would drown the log.
_EXEMPT = ("/grpc.health.", "/grpc.reflection.")
_LONGEST_CORRELATION_ID = 128

_Handler = Any
_Behaviour = Callable[[Any, Any], Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of one server; `in_flight` counts the calls that are running."""

    def __init__(self, service: str, *, default_deadline: float, max_concurrent: int) -> None:
        self.in_flight = 0
        self._service = service
        self._default_deadline = default_deadline
        self._max_concurrent = max_concurrent
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}
        meter = metrics.get_meter("agentmesh")
        self._duration = meter.create_histogram("rpc.server.duration", unit="ms", description="Time per call.")
        self._rejected = meter.create_counter("rpc.server.rejected", description="Calls refused for want of room.")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_EXEMPT):
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(handler, method))
        return known[1]

    def _wrap(self, handler: _Handler, method: str) -> _Handler:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        match handler.request_streaming, handler.response_streaming:
            case False, False:
                deadline = self._default_deadline
                call = self._around(_awaitable(handler.unary_unary), method, deadline)
                return grpc.unary_unary_rpc_method_handler(call, **codec)
            case False, True:
                call = self._around(_writing(handler.unary_stream), method, None)
                return grpc.unary_stream_rpc_method_handler(call, **codec)
            case True, False:
                call = self._around(_awaitable(handler.stream_unary), method, None)
                return grpc.stream_unary_rpc_method_handler(call, **codec)
            case _:
                call = self._around(_writing(handler.stream_stream), method, None)
                return grpc.stream_stream_rpc_method_handler(call, **codec)

    def _around(self, behaviour: _Behaviour, method: str, default_deadline: float | None) -> _Behaviour:
        async def call(request: Any, context: Any) -> Any:
            started = time.monotonic()
            call_facts, tokens = self._enter(method, context, started, default_deadline)
            self.in_flight += 1
            code = grpc.StatusCode.OK
            try:
                if self.in_flight > self._max_concurrent:
                    self._rejected.add(1)
                    raise _full(self._max_concurrent)
                if default_deadline is None or context.time_remaining() is not None:
                    return await behaviour(request, context)
                async with asyncio.timeout(default_deadline) as limit:
                    try:
                        return await behaviour(request, context)
                    except TimeoutError as err:
                        # asyncio.timeout turns only its own cancellation into TimeoutError, outside of this block.
                        raise Internal("A wait inside of the handler timed out.") from err
            except TimeoutError as err:
                if default_deadline is None or not limit.expired():
                    raise
                code = grpc.StatusCode.DEADLINE_EXCEEDED
                error = DeadlineExceeded(
                    f"The call took longer than the default of {default_deadline:g} s.",
                    fix="Name a longer deadline in the call.",
                )
                await self._abort(context, error, call_facts, err)
            except MeshError as error:
                code = code_of(error)
                await self._abort(context, error, call_facts, error)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = context.code() or grpc.StatusCode.UNKNOWN
                raise
            except Exception as err:
                code = grpc.StatusCode.INTERNAL
                _log.exception("handler_failed", method=method)
                defect = Internal("The service met an unexpected error.", fix="Its log has the details.")
                await self._abort(context, defect, call_facts, err)
            finally:
                self.in_flight -= 1
                self._leave(call_facts, started, code, tokens)

        return call

    def _enter(
        self, method: str, context: Any, started: float, default_deadline: float | None
    ) -> tuple[CallContext, "_Tokens"]:
        metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        identifier = metadata.get("x-correlation-id", "")
        if not 0 < len(identifier) <= _LONGEST_CORRELATION_ID or not identifier.isprintable():
            identifier = uuid.uuid4().hex
        left = context.time_remaining()
        left = default_deadline if left is None else left
        facts = CallContext(
            method=method,
            correlation_id=identifier,
            caller=parse_caller(metadata.get("x-forwarded-client-cert", "")),
            ends_at=None if left is None else started + left,
        )
        context.set_trailing_metadata((("x-correlation-id", identifier),))
        trace_token = trace_context.attach(propagate.extract(metadata)) if "traceparent" in metadata else None
        return facts, (current_call.set(facts), correlation_id.set(identifier), trace_token)

    def _leave(self, facts: CallContext, started: float, code: grpc.StatusCode, tokens: "_Tokens") -> None:
        elapsed = (time.monotonic() - started) * 1e3
        self._duration.record(elapsed, {"rpc.method": facts.method, "rpc.grpc.status_code": code.value[0]})
        log = _log.debug if code is grpc.StatusCode.OK else _log.info
        caller = str(facts.caller or "")
        log("call_served", method=facts.method, code=code.name, duration_ms=round(elapsed, 3), caller=caller)
        call_token, correlation_token, trace_token = tokens
        if trace_token is not None:
            trace_context.detach(trace_token)
        correlation_id.reset(correlation_token)
        current_call.reset(call_token)

    async def _abort(self, context: Any, error: MeshError, facts: CallContext, cause: BaseException) -> NoReturn:
        status = error_to_status(error, service=self._service, correlation_id=facts.correlation_id)
        trailing = (
            ("x-correlation-id", facts.correlation_id),
            ("grpc-status-details-bin", status.SerializeToString()),
        )
        try:
            await context.abort(code_of(error), status.message, trailing_metadata=trailing)
        except grpc.aio.AbortError as aborted:
            raise aborted from cause
        raise AssertionError("abort always raises")


_Tokens = tuple[Token[CallContext | None], Token[str], Token[Any] | None]


def _full(most: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"The service already works on {most} calls, which is the most that it takes at once.",
        reason="TOO_MANY_CALLS",
        fix="Try again in a moment.",
    )


def _awaitable(behaviour: _Behaviour) -> _Behaviour:
    async def call(request: Any, context: Any) -> Any:
        answer = behaviour(request, context)
        return await answer if inspect.isawaitable(answer) else answer

    return behaviour if inspect.iscoroutinefunction(behaviour) else call


def _writing(behaviour: _Behaviour) -> _Behaviour:
    """A coroutine that writes, from a handler that either writes or yields."""

    async def call(request: Any, context: Any) -> None:
        answers = behaviour(request, context)
        if inspect.isawaitable(answers):
            await answers
            return
        try:
            async for answer in answers:
                await context.write(answer)
        finally:
            await answers.aclose()

    return call
