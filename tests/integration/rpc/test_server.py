"""open_server and open_target against each other: everything that every call of the mesh gets."""

import asyncio
import json
import stat

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from agentmesh.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from mesh.errors import AlreadyExists, InvalidInput, NotFound
from mesh.rpc import ServerSettings, Service, call_context, error_from_rpc, open_channel, open_server, open_target
from mesh.telemetry import configure_logs, correlation_id

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_all_four_kinds_of_calls_work(serve):
    async with serve() as (_, calls):
        assert await calls.unary(b"a") == b"a"
        assert [answer async for answer in calls.server_stream(b"3")] == [b"0", b"1", b"2"]
        assert await calls.client_stream(iter([b"a", b"b"])) == b"ab"
        assert [answer async for answer in calls.both_stream(iter([b"a", b"b"]))] == [b"a", b"b"]


async def test_a_handlers_error_arrives_with_its_details(serve, handlers):
    async def unary(request, context):
        raise NotFound("There is no such thing.", field="name", fix="Look again.")

    async def server_stream(request, context):
        yield b"first"
        raise NotFound("There is no more.")

    handlers.unary, handlers.server_stream = unary, server_stream
    async with serve() as (_, calls):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.unary(b"")
        error = error_from_rpc(caught.value)
        assert isinstance(error, NotFound)
        assert (error.field, error.fix, error.service) == ("name", "Look again.", "test")
        answers = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            answers.extend([answer async for answer in calls.server_stream(b"")])
        assert isinstance(error_from_rpc(caught.value), NotFound)


async def test_an_unexpected_error_is_logged_once_and_tells_the_caller_nothing(serve, handlers, capfd):
    async def unary(request, context):
        raise RuntimeError("the password is 123")

    handlers.unary = unary
    configure_logs("test")
    async with serve() as (_, calls):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.unary(b"")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "password" not in str(caught.value)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "handler_failed" in line]
    assert len(lines) == 1
    assert "the password is 123" in json.dumps(lines[0])


@pytest.mark.parametrize("given", ["mine-1", "", "two words", "x" * 129])
async def test_a_correlation_id_is_taken_or_made_then_returned_logged_and_passed_on(serve, handlers, capfd, given):
    seen = []

    async def unary(request, context):
        seen.append((call_context().correlation_id, correlation_id.get()))
        if request == b"again":
            return b""
        return await calls.unary(b"again")

    handlers.unary = unary
    configure_logs("test", level="debug")
    async with serve() as (_, calls):
        call = calls.unary(b"once", metadata=[("x-correlation-id", given)])
        await call
        returned = dict(await call.initial_metadata())["x-correlation-id"]
        assert dict(await call.trailing_metadata())["x-correlation-id"] == returned
    if given == "mine-1":
        assert returned == given
    else:
        assert returned != given
        assert len(returned) == 32
    assert set(seen) == {(returned, returned)}
    assert len(seen) == 2
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "call_served" in line]
    assert [line["correlation_id"] for line in lines] == [returned, returned]
    assert all({"ts", "level", "method", "code", "duration_ms"} <= line.keys() for line in lines)


@pytest.mark.parametrize("deadline", ["the default", "the caller's"])
async def test_a_handler_that_overruns_is_ended(serve, handlers, capfd, deadline):
    ended = asyncio.Event()

    async def unary(request, context):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    handlers.unary = unary
    configure_logs("test")
    async with serve(default_deadline=0.1 if deadline == "the default" else 60.0) as (_, calls):
        bare = calls.channel._inner.unary_unary("/test.v1.Test/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bare(b"", timeout=None if deadline == "the default" else 0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await ended.wait()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["code"] for line in lines if line["event"] == "call_served"] == ["DEADLINE_EXCEEDED"]
    assert not [line for line in lines if line["event"] == "handler_failed"]


async def test_what_is_left_of_the_deadline_is_passed_on(serve, handlers):
    left = {}

    async def unary(request, context):
        left[request] = call_context().deadline
        if request == b"near":
            await calls.unary(b"plain")
            await calls.unary(b"shorter", timeout=2.0)
            await calls.unary(b"longer", timeout=600.0)
            assert [answer async for answer in calls.server_stream(b"2")] == [b"0", b"1"]
        return b""

    async def server_stream(request, context):
        left[b"stream"] = call_context().deadline
        for number in range(int(request)):
            yield b"%d" % number

    handlers.unary, handlers.server_stream = unary, server_stream
    async with serve() as (_, calls):
        await calls.unary(b"near", timeout=10.0)
        await calls.server_stream(b"1").read()
    assert left.pop(b"shorter") < 2.5
    assert left.pop(b"stream") is None  # outside of a handler a stream has no deadline
    assert set(left) == {b"near", b"plain", b"longer"}
    assert all(5 < seconds < 10.5 for seconds in left.values())


async def test_a_handler_whose_deadline_is_over_can_still_call_to_clean_up(serve, handlers):
    cleaned = asyncio.Event()

    async def unary(request, context):
        if request == b"clean up":
            cleaned.set()
            return b""
        try:
            await asyncio.Event().wait()
        finally:
            await calls.unary(b"clean up", timeout=10.0)

    handlers.unary = unary
    async with serve() as (_, calls):
        with pytest.raises(grpc.aio.AioRpcError):
            await calls.unary(b"hang", timeout=0.1)
        await cleaned.wait()


async def test_a_call_without_a_deadline_gets_the_default_and_one_with_keeps_its_own(serve, handlers):
    seen = []

    async def unary(request, context):
        seen.append(call_context().deadline)
        if request == b"hang":
            await asyncio.Event().wait()
        return b""

    handlers.unary = unary
    async with serve(default_deadline=0.2) as (_, calls):
        bare = calls.channel._inner.unary_unary("/test.v1.Test/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bare(b"hang")
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "default of 0.2 s" in caught.value.details()
        await bare(b"", timeout=10)
    assert seen[0] <= 0.2
    assert 5 < seen[1] < 10.5  # gRPC rounds up what it sends


async def test_calls_beyond_the_limit_are_refused_while_health_still_answers(serve, handlers):
    release = asyncio.Event()

    async def unary(request, context):
        await release.wait()
        return b"done"

    handlers.unary = unary
    async with serve(max_concurrent=3) as (server, calls):
        waiting = [asyncio.ensure_future(calls.unary(b"")) for _ in range(3)]
        while server.in_flight < 3:
            await asyncio.sleep(0.005)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.unary(b"")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error_from_rpc(caught.value).retryable
        health = health_pb2_grpc.HealthStub(calls.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        release.set()
        assert await asyncio.gather(*waiting) == [b"done"] * 3
        assert await calls.unary(b"") == b"done"


async def test_a_message_that_is_too_large_is_refused_either_way_and_the_connection_lives_on(serve, handlers):
    async def unary(request, context):
        return b"x" * int(request)

    handlers.unary = unary
    async with serve(max_message_bytes=10_000) as (_, calls):
        for request in (b"1" * 20_000, b"20000"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await calls.unary(request)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await calls.unary(b"10") == b"x" * 10


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


async def test_a_unix_socket_is_private_and_gone_afterwards(serve, short_dir):
    async with serve():
        assert stat.S_IMODE((short_dir / "s.sock").stat().st_mode) == 0o600
    assert not (short_dir / "s.sock").exists()


async def test_a_socket_that_is_in_use_is_refused_and_a_dead_one_is_taken_over(serve, short_dir):
    async with serve():
        with pytest.raises(AlreadyExists) as caught:
            async with open_server(ServerSettings("other", f"unix:{short_dir}/s.sock"), []):
                pass
        assert f"{short_dir}/s.sock" in str(caught.value)
    import socket

    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(short_dir / "s.sock"))
    dead.close()
    async with serve() as (_, calls):
        assert await calls.unary(b"a") == b"a"


async def test_a_file_that_is_no_socket_is_left_alone(short_dir):
    path = short_dir / "s.sock"
    path.write_text("precious")
    with pytest.raises(AlreadyExists, match="not a socket"):
        async with open_server(ServerSettings("test", f"unix:{path}"), []):
            pass
    assert path.read_text() == "precious"


async def test_a_port_that_is_in_use_is_refused(serve):
    async with serve(listen="127.0.0.1:0") as (server, _):
        assert server.port > 0
        with pytest.raises(AlreadyExists, match=f":{server.port}") as caught:
            async with open_server(ServerSettings("other", f"127.0.0.1:{server.port}"), []):
                pass
        assert "in use" in str(caught.value)


async def test_a_socket_path_that_is_too_long_is_named():
    path = "/tmp/" + "x" * 120
    with pytest.raises(InvalidInput, match=path) as caught:
        async with open_server(ServerSettings("test", f"unix:{path}"), []):
            pass
    assert caught.value.field == "listen"


@pytest.mark.parametrize("listen", ["unix:/tmp/" + "x" * 120, "nonsense", "unix:/no/such/dir/s.sock", "127.0.0.1:x"])
async def test_an_address_that_cannot_be_used_is_named(listen):
    with pytest.raises((InvalidInput, NotFound, AlreadyExists)) as caught:
        async with open_server(ServerSettings("test", listen), []):
            pass
    assert caught.value.fix


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


async def test_an_old_connection_makes_room_for_a_new_one_and_its_calls_go_on():
    """So that a client comes with the certificate that it has by then."""
    peers = []

    async def say(request, context):
        peers.append(context.peer())
        return request

    async def stay(requests, context):
        async for request in requests:
            await context.write(request)

    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Stay": grpc.stream_stream_rpc_method_handler(stay),
    }
    handler = grpc.method_handlers_generic_handler("age.v1.Age", handlers)
    settings = ServerSettings("age", "127.0.0.1:0", max_connection_age=0.2, drain_grace=0.1)
    async with asyncio.timeout(20), open_server(settings, [], generic_handlers=[handler]) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stream = channel.stream_stream("/age.v1.Age/Stay")()
            await stream.write(b"a")
            assert await stream.read() == b"a"
            while len(set(peers)) < 2:
                assert await channel.unary_unary("/age.v1.Age/Say")(b"b", wait_for_ready=True) == b"b"
            await stream.write(b"c")
            assert await stream.read() == b"c"
            stream.cancel()
