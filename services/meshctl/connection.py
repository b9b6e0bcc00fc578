"""The two ways into a running mesh: the control plane's admin socket and the edge."""

import difflib
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from agentmesh.control.v1 import control_pb2, control_service_pb2, control_service_pb2_grpc
from mesh.config import MeshSettings
from mesh.errors import NotFound, Unavailable
from mesh.model import Address
from mesh.rpc import error_from_rpc, open_target

TIMEOUT = 5.0
"""Seconds that an answer of the control plane may take."""


@dataclass(frozen=True, slots=True)
class RunningMesh:
    """What `meshctl up` wrote down about the mesh that it runs: its services and where it is reached."""

    pid: int
    services: tuple[str, ...]
    endpoints: dict[str, str]

    @property
    def gateway(self) -> Address | None:
        """The door without TLS; None in production, which has none."""
        scheme, _, rest = self.endpoints["gateway"].partition("://")
        return Address.parse(rest, field="endpoints.gateway") if scheme == "http" else None

    @property
    def gateway_tls(self) -> Address:
        """Where the edge takes TLS."""
        return Address.parse(self.endpoints["gateway_tls"].removeprefix("https://"), field="endpoints.gateway_tls")

    def save(self, path: Path) -> None:
        """Write the file that `load` reads."""
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"pid": self.pid, "services": self.services, "endpoints": self.endpoints}))
        fresh.replace(path)

    @classmethod
    def load(cls, settings: MeshSettings) -> "RunningMesh | None":
        """What runs, or None when nothing was written down."""
        try:
            facts = json.loads(running_file(settings).read_text())
            return cls(int(facts["pid"]), tuple(facts["services"]), dict(facts["endpoints"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def running_file(settings: MeshSettings) -> Path:
    """Where `up` writes down what runs."""
    return settings.state_dir / "running.json"


@asynccontextmanager
async def open_control(settings: MeshSettings) -> "AsyncIterator[control_service_pb2_grpc.ControlServiceAsyncStub]":
    """ControlService of the running mesh; raises Unavailable that says how to start one."""
    async with open_admin(settings) as channel:
        yield control_service_pb2_grpc.ControlServiceStub(channel)


@asynccontextmanager
async def open_admin(settings: MeshSettings) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the admin socket of the control plane; raises Unavailable that says how to start one."""
    if not settings.admin_socket.exists():
        raise no_mesh(settings)
    async with open_target(f"unix:{settings.admin_socket}", authority="control-plane.mesh") as channel:
        try:
            yield channel
        except grpc.aio.AioRpcError as err:
            if err.code() is grpc.StatusCode.UNAVAILABLE:
                raise no_mesh(settings) from err
            raise error_from_rpc(err) from err


def no_mesh(settings: MeshSettings) -> Unavailable:
    """The error of a control plane that does not answer, with what to do."""
    return Unavailable(
        f"No control plane answers at {settings.admin_socket}.",
        reason="NO_MESH",
        fix="Start the mesh with `make up` (or `meshctl up`), or name its state directory with --state-dir.",
    )


async def list_services(settings: MeshSettings) -> list[control_pb2.Service]:
    """All services of the mesh, sorted by name."""
    async with open_control(settings) as control:
        response = await control.ListServices(control_service_pb2.ListServicesRequest(), timeout=TIMEOUT)
        return list(response.services)


def find_service(services: Iterable[control_pb2.Service], name: str) -> control_pb2.Service:
    """The service of that name; raises NotFound that names the nearest, and Unavailable when no instance is healthy."""
    by_name = {service.name: service for service in services}
    if name not in by_name:
        # What was declared once and does not run is of no help.
        running = [known for known, service in by_name.items() if service.instances]
        near = difflib.get_close_matches(name, running, n=3, cutoff=0.4)
        fix = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(running) or 'none'}."
        raise NotFound(f"There is no service {name!r} in the mesh.", reason="UNKNOWN_SERVICE", field="service", fix=fix)
    service = by_name[name]
    if not any(instance.healthy for instance in service.instances):
        outputs = [" ".join(instance.health_output.split()) for instance in service.instances if instance.health_output]
        if service.instances:
            summary = f"No instance of {name} is healthy{': ' + outputs[0] if outputs else ''}."
        else:
            summary = f"{name} is declared, but no instance of it runs."
        raise Unavailable(
            summary,
            reason="NO_HEALTHY_INSTANCE",
            service=name,
            fix=f"See `meshctl logs {name}`.",
        )
    return service
