"""The registry that a control plane keeps, from outside of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from types import MappingProxyType
from typing import Any

import grpc

from agentmesh.registry.v1 import registry_service_pb2 as pb
from agentmesh.registry.v1 import registry_service_pb2_grpc
from mesh.discovery.embedded.probe import ChannelIdentity
from mesh.discovery.embedded.record import (
    LEASE,
    Record,
    check_record,
    instance_from_proto,
    record_to_proto,
)
from mesh.discovery.registry import HealthCheck, RegistrySnapshot
from mesh.errors import DeadlineExceeded, FailedPrecondition, MeshError, NotFound, Unavailable
from mesh.model import Instance, check_service_name
from mesh.rpc import error_from_rpc, open_target
from mesh.runtime import Backoff
from mesh.telemetry import get_logger

REQUEST_TIMEOUT = 5.0
FIRST_RETRY = 0.1
LONGEST_RETRY = 2.0

AUTHORITY = "control-plane.mesh"
"""The name that the control plane's certificate must hold."""

_log = get_logger(__name__)


class _Slot:
    """The newest snapshot, and whether it has been taken."""

    def __init__(self) -> None:
        self.snapshot = RegistrySnapshot(MappingProxyType({}), is_available=False)
        self.filled = asyncio.Event()

    def put(self, snapshot: RegistrySnapshot) -> None:
        self.snapshot = snapshot
        self.filled.set()


class RegistryClient:
    """A Registry over RegistryService. Made by `open_registry_client`; belongs to one event loop.

    With the certificate of a member it registers and sees instances of that service only; over the admin socket it
    registers and sees all.
    """

    def __init__(self, target: str, identity: ChannelIdentity | None, *, service: str = "") -> None:
        self._target = target
        self._identity = identity
        self._service = service
        self._stack = AsyncExitStack()
        self._shown: object = None
        self._channel: grpc.aio.Channel | None = None
        self._opening = asyncio.Lock()

    async def kind(self) -> str:
        """Which registry the mesh uses: "consul" or "embedded". Raises MeshError as the other methods do."""
        response = await self._call("GetRegistry", pb.GetRegistryRequest())
        return "embedded" if response.kind == pb.REGISTRY_KIND_EMBEDDED else "consul"

    async def register(self, instance: Instance, check: HealthCheck) -> None:
        """Add or replace an instance, for LEASE seconds; see Registry.register."""
        check_service_name(instance.service)
        record = Record(instance, check, LEASE)
        check_record(record)
        await self._call("Register", record_to_proto(record))

    async def renew(self, instance_id: str) -> bool:
        """Keep the instance for another LEASE seconds; False when the registry does not have it."""
        try:
            await self._call("RenewLease", pb.RenewLeaseRequest(instance_id=instance_id))
        except NotFound:
            return False
        return True

    async def deregister(self, instance_id: str) -> None:
        """Remove an instance."""
        await self._call("Deregister", pb.DeregisterRequest(instance_id=instance_id))

    async def is_registered(self, instance_id: str) -> bool:
        """Tell whether the registry has the instance."""
        request = pb.ListInstancesRequest(service=self._service, instance_id=instance_id)
        return bool((await self._call("ListInstances", request)).instances)

    async def watch(self) -> AsyncIterator[RegistrySnapshot]:
        """Follow what the caller may see; see Registry.watch."""
        slot = _Slot()
        # It reads while the caller of this is busy: what waits in a gRPC stream is the oldest, not the newest.
        reading = asyncio.create_task(self._read_for_ever(slot))
        reading.add_done_callback(lambda _: slot.filled.set())
        try:
            while True:
                await slot.filled.wait()
                if reading.done():
                    reading.result()
                slot.filled.clear()
                yield slot.snapshot
        finally:
            reading.cancel()
            await asyncio.wait((reading,))

    async def _read_for_ever(self, slot: "_Slot") -> None:
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        error = ""
        while True:
            try:
                async with aclosing(self._stream()) as messages:
                    async for message in messages:
                        slot.put(RegistrySnapshot(_services_of(message), is_available=True))
                        error = ""
                        backoff.reset()
                raise Unavailable(f"The registry at {self._target} stops.", reason="REGISTRY_STOPS")
            except MeshError as err:
                if str(err) != error:
                    error = str(err)
                    _log.warning("registry_unavailable", registry=self._target, error=error, reason=err.reason)
                    slot.put(RegistrySnapshot(slot.snapshot.services, is_available=False, error=error))
            await asyncio.sleep(backoff.next())

    async def close(self) -> None:
        """Close the connection, if there is one."""
        await self._stack.aclose()
        self._channel = None

    async def _stream(self) -> AsyncGenerator[pb.WatchInstancesResponse, None]:
        """One WatchInstances call on a connection of its own; the certificate's renewal does not break it."""
        async with self._open_channel() as channel:
            stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
            call = stub.WatchInstances(pb.WatchInstancesRequest(service=self._service))
            messages = aiter(call)
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    first = await anext(messages)
                yield first
                async for message in messages:
                    yield message
            except TimeoutError as err:
                raise self._explain(DeadlineExceeded("it has not begun to answer")) from err
            except StopAsyncIteration:
                return
            except grpc.aio.AioRpcError as err:
                raise self._explain(error_from_rpc(err)) from err

    async def _call(self, method: str, request: Any) -> Any:
        channel = await self._current_channel()
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        try:
            return await getattr(stub, method)(request, timeout=REQUEST_TIMEOUT)
        except grpc.aio.AioRpcError as err:
            raise self._explain(error_from_rpc(err)) from err

    async def _current_channel(self) -> grpc.aio.Channel:
        """The channel, with the newest certificate: gRPC keeps the first one for all connections that it makes."""
        async with self._opening:
            current = self._identity.current if self._identity is not None else None
            if self._channel is not None and current is self._shown:
                return self._channel
            if self._channel is not None:
                # Calls that are on their way may end.
                await self._channel.close(REQUEST_TIMEOUT)
            await self.close()
            self._channel = channel = await self._stack.enter_async_context(self._open_channel())
            self._shown = current
            return channel

    def _open_channel(self) -> AbstractAsyncContextManager[grpc.aio.Channel]:
        credentials = self._identity.channel_credentials() if self._identity is not None else None
        return open_target(self._target, credentials=credentials, authority=AUTHORITY)

    def _explain(self, error: MeshError) -> MeshError:
        """Errors of the registry stay as they are; those of the way to it get words of their own."""
        match error:
            case Unavailable(fix="") | DeadlineExceeded(fix=""):
                return Unavailable(
                    f"The registry at {self._target} cannot be reached: {error.summary.rstrip('.')}.",
                    reason="REGISTRY_UNREACHABLE",
                    fix="Is the control plane running? Its address is set by MESH_CONTROL_ADVERTISE.",
                )
            case _ if error.reason == "UNIMPLEMENTED":
                return FailedPrecondition(
                    f"What answers at {self._target} keeps no registry.",
                    reason="REGISTRY_NOT_SERVED",
                    fix="Set MESH_CONTROL_ADVERTISE to the control plane's port for proxies.",
                )
            case _:
                return error


def _services_of(message: pb.WatchInstancesResponse) -> MappingProxyType[str, tuple[Instance, ...]]:
    services: dict[str, tuple[Instance, ...]] = {}
    for told in message.instances:
        services[told.service] = (*services.get(told.service, ()), instance_from_proto(told))
    return MappingProxyType(services)


@asynccontextmanager
async def open_registry_client(
    target: str, *, identity: ChannelIdentity | None = None, service: str = ""
) -> AsyncIterator[RegistryClient]:
    """A registry at `target`: HOST:PORT with an identity, or the admin socket unix:PATH without.

    `service` narrows what is asked for; a member need not name its own. Opening does not connect.
    """
    client = RegistryClient(target, identity, service=service)
    try:
        yield client
    finally:
        await client.close()
