"""The door for clients outside of the mesh: a gateway member with the real gateway application."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

FORGED = {
    "x-envoy-retry-grpc-on": "unavailable",
    "x-envoy-retry-on": "5xx",
    "x-envoy-max-retries": "50",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-expected-rq-timeout-ms": "1",
    "x-envoy-internal": "true",
    "x-envoy-force-trace": "true",
    "x-envoy-decorator-operation": "forged",
    "x-forwarded-client-cert": "URI=spiffe://test.local/ns/default/svc/control-plane",
}


@pytest.fixture
async def edge(open_gateway: Any) -> AsyncIterator[str]:
    async with open_gateway() as address:
        yield str(address)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_service_is_named_by_authority_or_by_header(edge: str, open_echo: Any, control_plane: Any) -> None:
    port = edge.rpartition(":")[2]
    for authority in ("echo.mesh", f"echo.mesh:{port}", "echo.localhost", f"echo.localhost:{port}"):
        async with open_echo(edge, authority) as echo:
            answer = json.loads(await echo.say(b"0", timeout=5))
        assert answer["metadata"]["x-forwarded-client-cert"].endswith(";URI=spiffe://test.local/ns/default/svc/gateway")
    async with open_echo(edge) as echo:
        assert json.loads(await echo.say(b"0", timeout=5, metadata=(("x-mesh-service", "echo"),)))
        assert [number async for number in echo.count(b"3", metadata=(("x-mesh-service", "echo"),))] == [
            b"0",
            b"1",
            b"2",
        ]


async def test_a_name_that_nobody_has_is_said_to_be_unknown(edge: str, open_echo: Any) -> None:
    async with open_echo(edge) as echo:
        error = await refusal(echo.say(b"0", timeout=5, metadata=(("x-mesh-service", "nobody"),)))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "no service of the name in header x-mesh-service" in (error.details() or "")
    for authority in ("nobody.mesh", "nobody.localhost"):
        async with open_echo(edge, authority) as echo:
            error = await refusal(echo.say(b"0", timeout=5))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "no service of the name in the authority" in (error.details() or "")


async def test_plain_http_is_told_what_is_spoken_here(edge: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"http://{edge}/") as response:
        assert response.status == 200
        assert "with reflection; name a service by the header" in await response.text()


@pytest.mark.parametrize("authority", [None, "example.org"])
async def test_a_call_without_a_service_is_told_how_to_name_one(
    edge: str, open_echo: Any, authority: str | None
) -> None:
    async with open_echo(edge, authority) as echo:
        for call in (echo.say(b"0", timeout=5), anext(aiter(echo.count(b"1", timeout=5)))):
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "x-mesh-service: NAME" in (error.details() or "")


async def test_reflection_tells_of_the_contracts_of_the_mesh(edge: str, open_echo: Any) -> None:
    wanted = {"agentmesh.agent.v1.AgentService", "agentmesh.mcp.v1.McpBridgeService", "grpc.health.v1.Health"}
    async with open_echo(edge) as echo:
        for name in ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"):
            ask = echo.channel.stream_stream(
                f"/{name}/ServerReflectionInfo",
                reflection_pb2.ServerReflectionRequest.SerializeToString,
                reflection_pb2.ServerReflectionResponse.FromString,
            )
            requests = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in sorted(wanted)),
            ]
            listed, *described = [answer async for answer in ask(iter(requests), timeout=5)]
            assert wanted <= {service.name for service in listed.list_services_response.service}
            assert all(answer.file_descriptor_response.file_descriptor_proto for answer in described)


async def test_health_is_asked_by_name(edge: str, open_echo: Any, control_plane: Any) -> None:
    control_plane.declare("absent")
    async with open_echo(edge) as echo:
        health: Any = health_pb2_grpc.HealthStub(echo.channel)

        async def status_of(name: str) -> int:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            return int(answer.status)

        states = health_pb2.HealthCheckResponse
        assert await status_of("") == states.SERVING
        assert await status_of("echo") == states.SERVING
        # Declared, so that it has a name, and not there, so that it has no instance. Its route is a push away.
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await status_of("absent") == states.NOT_SERVING
                    break
                except grpc.aio.AioRpcError as err:
                    assert err.code() is grpc.StatusCode.NOT_FOUND
        for name, code in (("nobody", grpc.StatusCode.NOT_FOUND), ("No Name", grpc.StatusCode.INVALID_ARGUMENT)):
            error = await refusal(status_of(name))
            assert error.code() is code
            assert name in (error.details() or "")


async def test_internal_headers_from_outside_do_not_get_in(edge: str, open_echo: Any) -> None:
    async with open_echo(edge, "echo.mesh") as echo:
        answer = json.loads(await echo.say(b"20", timeout=5, metadata=tuple(FORGED.items())))
    seen = answer["metadata"]
    assert "control-plane" not in seen.pop("x-forwarded-client-cert")
    assert FORGED.keys() & seen.keys() == set()
