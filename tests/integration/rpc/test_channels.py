"""Channels to services by name."""

import asyncio

import pytest

from agentmesh.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from mesh.errors import InvalidInput
from mesh.rpc import ServerSettings, Service, call_context, open_channel, open_server


async def test_a_call_names_the_service_as_its_authority(short_dir):
    """What Envoy routes by; seen on the wire, since a gRPC server does not tell its handlers."""
    seen = asyncio.get_running_loop().create_future()

    async def listen(reader, writer):
        writer.write(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # an empty SETTINGS frame, which lets the client go on
        data = b""
        while b"/test.v1.Test/Unary" not in data:
            data += await reader.read(4096)
        seen.set_result(data)
        writer.close()

    path = str(short_dir / "out.sock")
    async with (
        asyncio.timeout(20),
        await asyncio.start_unix_server(listen, path),
        open_channel("far-agent", outbound=f"unix:{path}") as channel,
    ):
        call = channel.unary_unary("/test.v1.Test/Unary")(b"")
        assert b"far-agent.mesh" in await seen
        call.cancel()


async def test_open_channel_calls_by_authority_and_marks_what_may_be_retried(serve, short_dir, monkeypatch):
    monkeypatch.setenv("MESH_OUTBOUND", f"unix:{short_dir}/s.sock")
    seen = {}

    class Agent(agent_service_pb2_grpc.AgentServiceServicer):
        async def GetTask(self, request, context):
            seen["GetTask"] = dict(context.invocation_metadata())
            seen["deadline"] = call_context().deadline
            return agent_service_pb2.GetTaskResponse()

        async def Converse(self, requests, context):
            seen["Converse"] = dict(context.invocation_metadata())
            yield agent_service_pb2.ConverseResponse()

    descriptor = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]
    service = Service(
        descriptor, lambda server: agent_service_pb2_grpc.add_AgentServiceServicer_to_server(Agent(), server)
    )
    async with (
        asyncio.timeout(20),
        open_server(ServerSettings("test", f"unix:{short_dir}/s.sock"), [service]),
        open_channel("far-agent", default_deadline=7.0) as channel,
    ):
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        await stub.GetTask(agent_service_pb2.GetTaskRequest())
        assert len([answer async for answer in stub.Converse(iter([]))]) == 1
    assert seen["GetTask"]["x-envoy-retry-grpc-on"] == "unavailable"
    assert 0 < seen["deadline"] < 7.5  # gRPC rounds up what it sends
    assert "x-envoy-retry-grpc-on" not in seen["Converse"]


async def test_open_channel_without_a_sidecar_says_so(monkeypatch):
    monkeypatch.delenv("MESH_OUTBOUND", raising=False)
    with pytest.raises(Exception, match="no sidecar"):
        async with open_channel("financial"):
            pass
    with pytest.raises(InvalidInput):
        async with open_channel("Not A Name", outbound="unix:/tmp/x"):
            pass
