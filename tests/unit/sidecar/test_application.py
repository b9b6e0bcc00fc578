import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import FailedPrecondition
from mesh.sidecar.application import ApplicationSettings, open_application, remove_stale_socket


class Health(health_pb2_grpc.HealthServicer):
    """Serves after it has been asked `late` times."""

    def __init__(self, late: int) -> None:
        self.late = late

    async def Check(self, request: Any, context: Any) -> Any:
        self.late -= 1
        states = health_pb2.HealthCheckResponse
        return states(status=states.NOT_SERVING if self.late >= 0 else states.SERVING)


@asynccontextmanager
async def serving(path: Path, health: Health | None) -> AsyncIterator[None]:
    server = grpc.aio.server()
    if health is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


def settings(path: Path, command: tuple[str, ...] | None = None) -> ApplicationSettings:
    return ApplicationSettings("echo", path, command, grace=1.0)


async def test_a_server_is_waited_for_until_it_says_that_it_serves(short_dir: Path) -> None:
    health = Health(late=2)
    async with open_application(settings(short_dir / "s")) as application:
        waiting = asyncio.create_task(application.wait_serving(10.0))
        async with serving(short_dir / "s", health):
            await waiting
        assert application.pid is None
    assert health.late < 0


async def test_a_server_that_never_serves_is_named_with_its_socket(short_dir: Path) -> None:
    async with serving(short_dir / "s", Health(late=1000)), open_application(settings(short_dir / "s")) as application:
        with pytest.raises(FailedPrecondition, match=f"serves at {short_dir}/s after 0.2 s") as caught:
            await application.wait_serving(0.2)
    assert caught.value.reason == "PROCESS_NOT_READY"


async def test_a_server_without_health_is_named(short_dir: Path) -> None:
    async with serving(short_dir / "s", None), open_application(settings(short_dir / "s")) as application:
        with pytest.raises(FailedPrecondition, match=r"echo does not serve grpc\.health\.v1\.Health") as caught:
            await application.wait_serving(10.0)
    assert caught.value.reason == "HEALTH_MISSING"


async def test_a_server_that_does_not_speak_grpc_is_not_ready(short_dir: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_unix_server(hang_up, short_dir / "s")
    async with open_application(settings(short_dir / "s")) as application:
        with pytest.raises(FailedPrecondition, match="Nothing healthy serves"):
            await application.wait_serving(0.3)
    server.close()


async def test_the_error_of_a_command_says_how_to_try_it_alone(short_dir: Path) -> None:
    command = ("sh", "-c", "echo 'no config' >&2; exit 7")
    async with open_application(settings(short_dir / "s", command)) as application:
        with pytest.raises(FailedPrecondition, match=r"exit status 7\. It said last: no config") as caught:
            await application.wait_serving(10.0)
    assert "sh -c 'echo '" in caught.value.fix


def test_a_socket_that_nobody_serves_is_removed(short_dir: Path) -> None:
    path = short_dir / "s"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
        one.listen()
        remove_stale_socket(path)
        assert path.exists(), "somebody serves it"
    remove_stale_socket(path)
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(short_dir: Path) -> None:
    remove_stale_socket(short_dir / "nothing")
    path = short_dir / "file"
    path.write_text("kept")
    remove_stale_socket(path)
    assert path.read_text() == "kept"
    remove_stale_socket(short_dir)
    assert short_dir.is_dir()
