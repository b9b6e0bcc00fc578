"""Two hops in one process with spans and metrics recorded in memory; prints both as JSON."""

import asyncio
import json
import sys

import grpc
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh.errors import NotFound
from mesh.rpc import ServerSettings, open_server, open_target
from mesh.telemetry import configure_logs, get_logger

configure_logs("traced", level="debug")

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))


async def main(directory):
    near, far = f"unix:{directory}/near.sock", f"unix:{directory}/far.sock"

    async def answer(request, context):
        get_logger("far").info("answering")
        return request

    async def fail(request, context):
        raise NotFound("There is none.")

    async def count(request, context):
        for number in range(3):
            yield b"%d" % number

    async def pass_on(request, context):
        async with open_target(far) as channel:
            numbers = [number async for number in channel.unary_stream("/test.v1.Far/Count")(b"")]
            assert len(numbers) == 3
            try:
                await channel.unary_unary("/test.v1.Far/Fail")(request)
            except grpc.aio.AioRpcError as err:
                assert err.code() is grpc.StatusCode.NOT_FOUND
            return await channel.unary_unary("/test.v1.Far/Answer")(request)

    def handler(service, **methods):
        return grpc.method_handlers_generic_handler(service, methods)

    far_handler = handler(
        "test.v1.Far",
        Answer=grpc.unary_unary_rpc_method_handler(answer),
        Count=grpc.unary_stream_rpc_method_handler(count),
        Fail=grpc.unary_unary_rpc_method_handler(fail),
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
        {
            "name": span.name,
            "kind": span.kind.name,
            "trace": f"{span.context.trace_id:032x}",
            "span": f"{span.context.span_id:016x}",
            "parent": f"{span.parent.span_id:016x}" if span.parent else "",
            "status": span.status.status_code.name,
        }
        for span in exporter.get_finished_spans()
    ]
    measured = [
        {"name": metric.name, "unit": metric.unit, **point.attributes, "count": getattr(point, "count", None)}
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if scope.scope.name == "agentmesh"
    ]
    json.dump({"spans": spans, "metrics": measured}, sys.stdout)


asyncio.run(main(sys.argv[1]))
