"""One form for the many forms of gRPC handlers: `async def call(request or requests, context)`.

A handler that answers with a stream may yield or write; what comes out of here writes.
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from mesh.errors import Internal, Unimplemented

Handler = Any
Behaviour = Callable[[Any, Any], Awaitable[Any]]


def behaviour_of(handler: Handler, method: str) -> Behaviour:
    """The handler as a coroutine function. Errors about its form come when it is called: other methods are not hurt."""
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            function = handler.unary_unary
        case False, True:
            function = handler.unary_stream
        case True, False:
            function = handler.stream_unary
        case _:
            function = handler.stream_stream
    if handler.response_streaming and inspect.isasyncgenfunction(inspect.unwrap(function)):
        return _writing(function)
    if inspect.iscoroutinefunction(function):
        return function  # type: ignore[no-any-return]
    return _by_answer(function, method, is_stream=handler.response_streaming)


def rebuild(handler: Handler, behaviour: Behaviour) -> Handler:
    """A handler of the same kind and with the same serializers around another behaviour."""
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler(behaviour, **codec)
        case False, True:
            return grpc.unary_stream_rpc_method_handler(behaviour, **codec)
        case True, False:
            return grpc.stream_unary_rpc_method_handler(behaviour, **codec)
        case _:
            return grpc.stream_stream_rpc_method_handler(behaviour, **codec)


def _writing(generate: Callable[[Any, Any], Any]) -> Behaviour:
    async def call(request: Any, context: Any) -> None:
        # Closed at once when the call breaks off, and not whenever the garbage collector comes by.
        async with aclosing(generate(request, context)) as answers:
            async for answer in answers:
                await context.write(answer)

    return call


def _by_answer(function: Callable[[Any, Any], Any], method: str, *, is_stream: bool) -> Behaviour:
    """For a callable whose kind does not show (a partial, an object, a plain function that returns an awaitable)."""
    if getattr(function, "__module__", "").endswith("_pb2_grpc"):
        # The generated base class answers what a servicer leaves out with a plain function.
        return _unimplemented(method)

    async def call(request: Any, context: Any) -> Any:
        if inspect.isfunction(inspect.unwrap(function)) and function.__name__ != "<lambda>":
            raise _not_async(method)
        answer = function(request, context)
        if inspect.isawaitable(answer):
            return await answer
        if is_stream and hasattr(answer, "__aiter__"):
            return await _writing(lambda *_: answer)(request, context)
        raise _not_async(method)

    return call


def _unimplemented(method: str) -> Behaviour:
    async def call(_request: Any, _context: Any) -> Any:
        raise Unimplemented(f"{method} is in the contract, but this service does not have it.")

    return call


def _not_async(method: str) -> Internal:
    return Internal(
        f"The handler of {method} is not asynchronous.", reason="HANDLER_NOT_ASYNC", fix="Write it as `async def`."
    )
