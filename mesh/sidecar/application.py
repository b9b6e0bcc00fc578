"""The application behind a sidecar: a child process, or a server that somebody else runs, on a unix socket."""

import asyncio
import shlex
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import FailedPrecondition
from mesh.rpc import open_target
from mesh.runtime import ChildSpec, Supervised, open_supervised

_CHECK_TIMEOUT = 2.0
_CONNECT_TIMEOUT = 0.2
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class ApplicationSettings:
    """One application. `socket` is where it serves; without `command` it is run by somebody else.

    `grace` is the seconds from SIGTERM to SIGKILL.
    """

    name: str
    socket: Path
    command: tuple[str, ...] | None
    env: Mapping[str, str] = field(default_factory=dict)
    grace: float = 35.0


class Application:
    """An application that has been started. Made by `open_application`."""

    def __init__(self, settings: ApplicationSettings, process: Supervised | None, channel: grpc.aio.Channel) -> None:
        self._settings = settings
        self._process = process
        self._health: Any = health_pb2_grpc.HealthStub(channel)

    @property
    def pid(self) -> int | None:
        """The process id, another one after a crash; None when somebody else runs it."""
        return self._process.pid if self._process is not None else None

    async def wait_serving(self, timeout: float) -> None:
        """Wait until it is healthy by its own word (grpc.health.v1).

        Raises FailedPrecondition with its last words when that does not come within `timeout` seconds.
        """
        settings = self._settings
        if self._process is not None and settings.command is not None:
            fix = f"It must serve gRPC health at {settings.socket}. Try it by itself: {shlex.join(settings.command)}"
            await self._process.wait_ready(self._is_serving, timeout=timeout, fix=fix)
            return
        try:
            async with asyncio.timeout(timeout):
                while not await self._is_serving():  # noqa: ASYNC110 - somebody else's process
                    await asyncio.sleep(_POLL)
        except TimeoutError as err:
            raise FailedPrecondition(
                f"Nothing healthy serves at {settings.socket} after {timeout:g} s.",
                reason="PROCESS_NOT_READY",
                field=settings.name,
                fix="Start the server there first.",
            ) from err

    async def _is_serving(self) -> bool:
        # Looked for first: a channel that has once failed to connect waits before it tries again.
        if not self._settings.socket.exists():
            return False
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=_CHECK_TIMEOUT)
        except grpc.aio.AioRpcError as err:
            if err.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise FailedPrecondition(
                    f"{self._settings.name} does not serve grpc.health.v1.Health.",
                    reason="HEALTH_MISSING",
                    fix="Add the health service to it: grpcio-health-checking has it for Python.",
                ) from err
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def open_application(settings: ApplicationSettings) -> AsyncIterator[Application]:
    """Run an application, restarted with backoff when it dies, until the block ends. See `Application.wait_serving`.

    Raises InvalidInput when the command does not exist, which cancels the block.
    """
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_target(f"unix:{settings.socket}"))
        process = None
        if settings.command is not None:
            spec = ChildSpec(name=settings.name, command=settings.command, env=settings.env, grace=settings.grace)
            process = await stack.enter_async_context(
                open_supervised(spec, before_start=lambda: remove_stale_socket(settings.socket))
            )
        yield Application(settings, process, channel)


def remove_stale_socket(path: Path) -> None:
    """Remove a socket that a killed server has left: many a server, unlike gRPC for Python, cannot bind over it.

    One that somebody serves stays, and so does what is no socket.
    """
    with suppress(OSError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_TIMEOUT)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
