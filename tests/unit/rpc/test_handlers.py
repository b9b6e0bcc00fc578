"""Handlers of any form become one: `async def call(request, context)` that writes its stream."""

# ruff: noqa: PLW0108 - that a lambda hides what it calls is what is tested
import functools

import grpc
import pytest

from agentmesh.agent.v1 import agent_service_pb2_grpc
from mesh.errors import Internal, Unimplemented
from mesh.rpc.handlers import behaviour_of, rebuild


class Context:
    def __init__(self):
        self.written = []

    async def write(self, message):
        self.written.append(message)


async def unary(request, context):
    return request * 2


async def yields(request, context):
    for part in request:
        yield part


async def writes(request, context):
    for part in request:
        await context.write(part)


class Callable:
    async def __call__(self, request, context):
        return request * 2


@pytest.mark.parametrize("function", [unary, functools.partial(unary), Callable(), lambda r, c: unary(r, c)])
async def test_a_handler_that_answers_once_may_have_any_form(function):
    call = behaviour_of(grpc.unary_unary_rpc_method_handler(function), "/t.T/M")
    assert await call("a", Context()) == "aa"


@pytest.mark.parametrize("function", [yields, writes, functools.partial(yields), lambda r, c: yields(r, c)])
async def test_a_handler_that_streams_may_yield_or_write(function):
    call = behaviour_of(grpc.unary_stream_rpc_method_handler(function), "/t.T/M")
    context = Context()
    await call("abc", context)
    assert context.written == ["a", "b", "c"]


async def test_a_generator_is_closed_at_once_when_writing_fails():
    closed = []

    async def generate(request, context):
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    class Broken(Context):
        async def write(self, message):
            raise ConnectionError

    call = behaviour_of(grpc.unary_stream_rpc_method_handler(generate), "/t.T/M")
    with pytest.raises(ConnectionError):
        await call("", Broken())
    assert closed == [True]


async def test_a_method_that_the_servicer_leaves_out_is_unimplemented():
    servicer = agent_service_pb2_grpc.AgentServiceServicer()
    call = behaviour_of(
        grpc.unary_unary_rpc_method_handler(servicer.GetTask), "/agentmesh.agent.v1.AgentService/GetTask"
    )
    with pytest.raises(Unimplemented, match="GetTask"):
        await call(None, Context())


async def test_a_handler_that_is_not_async_is_named():
    def blocking(request, context):
        raise AssertionError("must not be called")

    call = behaviour_of(grpc.unary_unary_rpc_method_handler(blocking), "/t.T/Blocking")
    with pytest.raises(Internal, match="Blocking"):
        await call(None, Context())


@pytest.mark.parametrize(
    "make",
    [
        grpc.unary_unary_rpc_method_handler,
        grpc.unary_stream_rpc_method_handler,
        grpc.stream_unary_rpc_method_handler,
        grpc.stream_stream_rpc_method_handler,
    ],
)
def test_a_rebuilt_handler_has_the_same_kind_and_codec(make):
    old = make(unary, request_deserializer=len, response_serializer=repr)
    new = rebuild(old, writes)
    assert (new.request_streaming, new.response_streaming) == (old.request_streaming, old.response_streaming)
    assert (new.request_deserializer, new.response_serializer) == (len, repr)
    assert writes in (new.unary_unary, new.unary_stream, new.stream_unary, new.stream_stream)
