"""What the gateway knows: of the mesh, and of who may call what. Pushed by the control plane, newest only."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from agentmesh.control.v1 import control_pb2
from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from agentmesh.gateway.v1 import gateway_service_pb2_grpc
from mesh.errors import FailedPrecondition
from mesh.rpc import open_channel
from mesh.runtime import Backoff, open_background
from mesh.runtime.private_files import read_secret, write_file
from mesh.telemetry import get_logger
from services.gateway.guard.view import AccessView

CONTROL_PLANE = "control-plane"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MeshView:
    """The mesh at one moment; the services are sorted by name and not to be changed."""

    services: tuple[control_pb2.Service, ...] = ()
    revision: int = 0
    document_version: str = ""


class Knowledge:
    """The newest of both. Belongs to one event loop."""

    def __init__(self, snapshot: Path | None = None) -> None:
        self.mesh = MeshView()
        self.access = pb.WatchAccessResponse()
        self.view: AccessView | None = None
        """What `access` means; None before it has come."""
        self.knows_access = asyncio.Event()
        self._snapshot = snapshot
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[None]:
        """Come back at once, and after every change of either."""
        while True:
            changed = self._changed
            yield
            await changed.wait()

    def set_mesh(self, response: pb.WatchMeshResponse) -> None:
        """Take over a new state of the mesh."""
        self.mesh = MeshView(tuple(response.services), response.revision, response.document_version)
        self._tell()

    def set_access(self, response: pb.WatchAccessResponse) -> None:
        """Take over what decides about calls."""
        self._take_access(response)
        if self._snapshot is not None:
            try:
                write_file(self._snapshot, response.SerializeToString(), mode=0o600)
            except FailedPrecondition as err:
                _log.warning("access_not_kept", error=str(err))

    def load_snapshot(self) -> None:
        """Take over what was known last: so that a start does not need the control plane."""
        data = read_secret(self._snapshot) if self._snapshot is not None else None
        if data is None:
            return
        try:
            self._take_access(pb.WatchAccessResponse.FromString(data))
        except (DecodeError, ValueError, KeyError) as err:
            _log.warning("access_snapshot_unusable", path=str(self._snapshot), error=str(err))

    def _take_access(self, response: pb.WatchAccessResponse) -> None:
        self.view = AccessView.of(response)
        self.access = response
        self.knows_access.set()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@asynccontextmanager
async def open_knowledge(snapshot: Path | None = None) -> AsyncIterator[tuple[Knowledge, Any]]:
    """Keep knowing while the block runs; gives the knowledge and the stub of GatewayService, by the own sidecar.

    `snapshot` is the file in which what decides about calls is kept for the next start.
    """
    knowledge = Knowledge(snapshot)
    knowledge.load_snapshot()
    async with open_channel(CONTROL_PLANE) as channel:
        stub: Any = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        access = _follow("access", lambda: stub.WatchAccess(pb.WatchAccessRequest()), knowledge.set_access)
        mesh = _follow("mesh", lambda: stub.WatchMesh(pb.WatchMeshRequest()), knowledge.set_mesh)
        async with open_background(access), open_background(mesh):
            yield knowledge, stub


async def _follow(what: str, call: Callable[[], Any], take: Callable[[Any], None]) -> None:
    """Take what a stream says, for ever; what is known stays while the control plane is away."""
    backoff = Backoff(0.1, 2.0)
    told = False
    while True:
        try:
            async with aclosing(_messages(call())) as messages:
                async for message in messages:
                    take(message)
                    backoff.reset()
                    told = False
        except grpc.aio.AioRpcError as err:
            if not told:
                _log.warning("control_plane_lost", what=what, code=err.code().name, error=err.details() or "")
                told = True
        await asyncio.sleep(backoff.next())


async def _messages(call: Any) -> AsyncGenerator[Any, None]:
    try:
        async for message in call:
            yield message
    finally:
        call.cancel()
