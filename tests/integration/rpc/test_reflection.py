"""Reflection, by clients without stubs."""

import asyncio

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2

from agentmesh.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from mesh.rpc import ServerSettings, Service, open_server, open_target


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_tells_of_what_is_served_and_described(short_dir, version):
    target = f"unix:{short_dir}/s.sock"
    settings = ServerSettings("test", target, described=("agentmesh.agent.v1.AgentService",))
    async with asyncio.timeout(20), open_server(settings, []), open_target(target) as channel:
        info = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="agentmesh.agent.v1.AgentService"),
        ]
        names, file = [answer async for answer in info(iter(asked))]
    listed = {service.name for service in names.list_services_response.service}
    assert {"agentmesh.agent.v1.AgentService", "grpc.health.v1.Health"} <= listed
    assert any(b"SubmitTask" in data for data in file.file_descriptor_response.file_descriptor_proto)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_a_client_without_stubs_can_call_what_reflection_describes(short_dir, version):
    class Agent(agent_service_pb2_grpc.AgentServiceServicer):
        async def GetTask(self, request, context):
            return agent_service_pb2.GetTaskResponse(task={"id": request.task_id})

    descriptor = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]
    service = Service(
        descriptor, lambda server: agent_service_pb2_grpc.add_AgentServiceServicer_to_server(Agent(), server)
    )
    target = f"unix:{short_dir}/s.sock"
    async with (
        asyncio.timeout(20),
        open_server(ServerSettings("test", target), [service]),
        grpc.aio.insecure_channel(target) as channel,
    ):
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
        files = {}

        async def learn(**what):
            await ask.write(reflection_pb2.ServerReflectionRequest(**what))
            answer = (await ask.read()).file_descriptor_response
            for data in answer.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(data)
                files[file.name] = file
            for name in {name for file in list(files.values()) for name in file.dependency} - files.keys():
                await learn(file_by_filename=name)

        await learn(file_containing_symbol=descriptor.full_name)
        await ask.done_writing()
        pool = descriptor_pool.DescriptorPool()
        while files:
            for name, file in list(files.items()):
                if not files.keys() & set(file.dependency):
                    pool.Add(files.pop(name))
        method = pool.FindMethodByName(f"{descriptor.full_name}.GetTask")
        request = message_factory.GetMessageClass(method.input_type)(task_id="t-1")
        call = channel.unary_unary(
            f"/{descriptor.full_name}/GetTask",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        assert (await call(request)).task.id == "t-1"
