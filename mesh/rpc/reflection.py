"""Server reflection, v1 and v1alpha.

grpcio-reflection has v1alpha only. The messages of v1 are the same but for the name of their package, which does not
travel, so one servicer answers under both names; tools ask for v1 first.
Source: https://github.com/grpc/grpc-proto/blob/master/grpc/reflection/v1/reflection.proto
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


def add_reflection(server: grpc.aio.Server, services: Sequence[str], draining: asyncio.Event) -> None:
    """Describe `services` to whoever asks. The streams end when the server drains."""
    servicer: Any = reflection.aio.ReflectionServicer(sorted({*services, NAMES[1]}))

    async def info(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async for response in servicer.ServerReflectionInfo(_until(draining, requests), context):
            await context.write(response)

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in NAMES)
    )


async def _until(draining: asyncio.Event, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    ending = asyncio.ensure_future(draining.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(requests, None))
            await asyncio.wait((coming, ending), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                return
            request = coming.result()
            if request is None:
                return
            yield request
    finally:
        ending.cancel()
