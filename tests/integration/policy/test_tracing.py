"""Spans of the sidecars reach a collector; how many is changed without a connection less."""

import asyncio
import contextlib

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that remembers spans by the service that sent them."""

    def __init__(self):
        self.spans = []

    async def Export(self, request, context):
        for resource in request.resource_spans:
            names = [it.value.string_value for it in resource.resource.attributes if it.key == "service.name"]
            self.spans += [(names[0], span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@contextlib.asynccontextmanager
async def open_collector():
    server, collector = grpc.aio.server(), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, port
    finally:
        await server.stop(0)


def traced(port, percent):
    return {"mesh": {"telemetry": {"collector": f"127.0.0.1:{port}", "sampling_percent": percent}}}


async def test_a_call_is_one_trace_through_both_sidecars_and_sampling_changes_on_open_connections(world, eventually):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with open_collector() as (collector, port):
        await world.apply(traced(port, 100))
        got = await world.say(metadata=(("traceparent", parent),))
        assert got["metadata"]["traceparent"].split("-")[1] == parent.split("-")[1]

        async def has_both():
            """Envoy sends spans when it has five of them, or after 5 s."""
            await asyncio.gather(*(world.say() for _ in range(5)))
            traces = {}
            for service, span in collector.spans:
                traces.setdefault(span.trace_id, set()).add(service)
            return {"caller", "echo"} in traces.values()

        await eventually(has_both)
        listener = await world.envoys["caller"].stats("^listener_manager.listener_modified$")
        await world.apply(traced(port, 0))
        assert "traceparent" in (await world.say())["metadata"]
        assert (await world.say())["metadata"]["traceparent"].endswith("-00")
        assert (await world.say(metadata=(("traceparent", parent),)))["metadata"]["traceparent"].endswith("-01")
        assert await world.envoys["caller"].stats("^listener_manager.listener_modified$") == listener
    await world.apply()
