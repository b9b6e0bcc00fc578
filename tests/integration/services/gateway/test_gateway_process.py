"""The gateway as a process, with a server in the place of its sidecar's way out."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc
from mesh.rpc import open_target

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
COMMAND = (sys.executable, "-m", "services.gateway")


class Sidecar(health_pb2_grpc.HealthServicer):
    """What the gateway finds at its way out: every service is as this one says."""

    def __init__(self) -> None:
        self.status = SERVING
        self.code: grpc.StatusCode | None = None
        self.asked = 0

    async def Check(self, request: Any, context: Any) -> Any:
        self.asked += 1
        if self.code is not None:
            await context.abort(self.code, "as the sidecar says")
        return health_pb2.HealthCheckResponse(status=self.status)


class ControlPlane(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Says once who may call what: nobody anything, as long as nothing is configured."""

    async def WatchAccess(self, request: Any, context: Any) -> AsyncIterator[gateway_service_pb2.WatchAccessResponse]:
        yield gateway_service_pb2.WatchAccessResponse(version="1", document=b'{"access": {}, "edge": {}}')
        await asyncio.Event().wait()


@pytest.fixture
async def sidecar(short_dir: Path) -> AsyncIterator[Sidecar]:
    servicer = Sidecar()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(ControlPlane(), server)
    server.add_insecure_port(f"unix:{short_dir}/out.sock")
    await server.start()
    yield servicer
    await server.stop(0)


@pytest.fixture
async def gateway(short_dir: Path, sidecar: Sidecar) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    listen = f"unix:{short_dir}/app.sock"
    env = os.environ | {
        "MESH_LISTEN": listen,
        "MESH_OUTBOUND": f"unix:{short_dir}/out.sock",
        "MESH_GUARD_LISTEN": f"unix:{short_dir}/guard.sock",
        "MESH_WEB_LISTEN": f"unix:{short_dir}/web.sock",
        "MESH_SECRETS_DIR": str(short_dir),
        "MESH_AUDIT_DIR": str(short_dir / "audit"),
    }
    process = await asyncio.create_subprocess_exec(*COMMAND, env=env, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(20):
            while await health(listen) != SERVING:
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield process, listen
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def health(target: str, name: str = "") -> int:
    """The health of a service by the gateway's word; 0 when nobody answers at all."""
    async with open_target(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            return int((await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)).status)
        except grpc.aio.AioRpcError as err:
            if err.code() is grpc.StatusCode.UNAVAILABLE and not name:
                return 0
            raise


async def test_health_by_name_is_what_the_service_says(gateway: Any, sidecar: Sidecar) -> None:
    _, listen = gateway
    assert await health(listen, "financial") == SERVING
    sidecar.status = NOT_SERVING
    assert await health(listen, "financial") == NOT_SERVING
    assert sidecar.asked == 2
    assert await health(listen) == SERVING, "the gateway's own health is its own"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_a_service_that_cannot_be_reached_is_not_serving(
    gateway: Any, sidecar: Sidecar, code: grpc.StatusCode
) -> None:
    sidecar.code = code
    assert await health(gateway[1], "financial") == NOT_SERVING


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND),
        (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_what_the_sidecar_refuses_is_passed_on(
    gateway: Any, sidecar: Sidecar, code: grpc.StatusCode, answer: grpc.StatusCode
) -> None:
    sidecar.code = code
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(gateway[1], "financial")
    assert caught.value.code() is answer


async def test_many_checks_at_once_are_answered(gateway: Any, sidecar: Sidecar) -> None:
    answers = await asyncio.gather(*(health(gateway[1], f"service-{number}") for number in range(40)))
    assert set(answers) == {SERVING}


async def test_sigterm_ends_it_with_status_0(gateway: Any) -> None:
    process, _ = gateway
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await process.wait() == 0


async def test_without_a_place_to_listen_it_says_so() -> None:
    env = {name: value for name, value in os.environ.items() if name != "MESH_LISTEN"}
    process = await asyncio.create_subprocess_exec(*COMMAND, env=env, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(20):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert b"MESH_LISTEN" in said
