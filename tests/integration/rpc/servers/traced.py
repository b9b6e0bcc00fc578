"""Two hops in one process with spans recorded in memory; prints the spans as JSON."""

import asyncio
import json
import sys

import grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh.rpc import ServerSettings, open_server, open_target

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)


async def main(directory):
    near, far = f"unix:{directory}/near.sock", f"unix:{directory}/far.sock"

    async def answer(request, context):
        return request

    async def count(request, context):
        for number in range(3):
            yield b"%d" % number

    async def pass_on(request, context):
        async with open_target(far) as channel:
            numbers = [number async for number in channel.unary_stream("/test.v1.Far/Count")(b"")]
            assert len(numbers) == 3
            return await channel.unary_unary("/test.v1.Far/Answer")(request)

    def handler(service, **methods):
        return grpc.method_handlers_generic_handler(service, methods)

    far_handler = handler(
        "test.v1.Far",
        Answer=grpc.unary_unary_rpc_method_handler(answer),
        Count=grpc.unary_stream_rpc_method_handler(count),
    )
    near_handler = handler("test.v1.Near", PassOn=grpc.unary_unary_rpc_method_handler(pass_on))
    async with (
        asyncio.timeout(20),
        open_server(ServerSettings("far", far), [], generic_handlers=[far_handler]),
        open_server(ServerSettings("near", near), [], generic_handlers=[near_handler]),
        open_target(near) as channel,
    ):
        assert await channel.unary_unary("/test.v1.Near/PassOn")(b"a") == b"a"
    spans = [
        {"name": span.name, "kind": span.kind.name, "trace": span.context.trace_id, "parent": bool(span.parent)}
        for span in exporter.get_finished_spans()
    ]
    json.dump(spans, sys.stdout)


asyncio.run(main(sys.argv[1]))
