"""Health of a server, and of what is reached through it, as its clients see it."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from mesh.errors import NotFound
from mesh.rpc import ServerSettings, Service, open_server, open_target

SERVING = health_pb2.HealthCheckResponse.SERVING

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_is_told_by_name_and_a_watch_sees_the_drain(short_dir):
    descriptor = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]
    servicer = agent_service_pb2_grpc.AgentServiceServicer()
    service = Service(
        descriptor, lambda server: agent_service_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server)
    )
    target = f"unix:{short_dir}/s.sock"
    async with asyncio.timeout(20), open_target(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        async with open_server(ServerSettings("test", target), [service]) as server:
            states = [
                (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
                for name in ("", descriptor.full_name)
            ]
            assert states == [NOT_SERVING, NOT_SERVING]
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == NOT_SERVING
            await server.set_serving(True)
            assert (await watch.read()).status == SERVING
            await server.set_serving(False, descriptor.full_name)
            answer = await health.Check(health_pb2.HealthCheckRequest(service=descriptor.full_name))
            assert answer.status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_health_of_what_is_reached_through_a_server_is_asked_of_it(short_dir):
    async def health_of(name):
        if name == "unknown":
            raise NotFound("There is no such service.")
        return name == "well"

    target = f"unix:{short_dir}/s.sock"
    async with (
        asyncio.timeout(20),
        open_server(ServerSettings("test", target), [], health_of=health_of),
        open_target(target) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        found = [(await health.Check(health_pb2.HealthCheckRequest(service=name))).status for name in ("well", "ill")]
        assert found == [SERVING, NOT_SERVING]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
