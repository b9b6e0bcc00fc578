"""The ADS server: streams of proxies on one side, the state of the mesh on the other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mesh.config.document import Policy
from mesh.errors import DeadlineExceeded, InvalidInput, MeshError, PermissionDenied, Unauthenticated
from mesh.model import ProxySpec, SpiffeId
from mesh.state import MeshState, StateStore
from mesh.telemetry import get_logger
from mesh.xds.answers import Answer
from mesh.xds.descriptors import envoy_message
from mesh.xds.reconcile import Reconciler
from mesh.xds.snapshot import Snapshot
from mesh.xds.status import ProxyStatus
from mesh.xds.stream import AdsStream, DeltaStream, StateStream

_log = get_logger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

_FIRST_REQUEST_SECONDS = 15.0
"""How long a stream may say nothing before it is closed; a proxy speaks at once."""

_MOST_WAITING_REQUESTS = 64
"""Requests of one stream that may wait to be read; a client that sends faster is held up by gRPC's flow control."""


def identity_of_peer(context: Any) -> SpiffeId:
    """Who the proxy is by its certificate; raises Unauthenticated when it shows none of a mesh."""
    found: list[bytes] = list(context.auth_context().get("peer_spiffe_id") or ())
    try:
        # A certificate of the mesh has exactly one; several must not add up to one.
        return SpiffeId.parse(found[0].decode() if len(found) == 1 else "")
    except (UnicodeDecodeError, InvalidInput) as err:
        raise Unauthenticated(
            "The proxy shows no identity of this mesh.",
            reason="NO_PEER_IDENTITY",
            fix="Start it with `meshctl run`, which gets it a certificate.",
        ) from err


class _Connection:
    """A stream with its way to be woken."""

    def __init__(self, stream: AdsStream, spec: ProxySpec | None) -> None:
        self.stream = stream
        self.spec = spec
        self.wake = asyncio.Event()
        self.requests: deque[Any] = deque()
        self.room = asyncio.Event()
        self.is_ended = False


class AdsServer:
    """Serves ADS from `store`. Belongs to one event loop; `handler` goes on a grpc.aio server, `run` into a task.

    Streams wait for `ready`, if one is given, before they say anything: a control plane that knows nothing yet must
    not tell proxies that nothing exists. `policy_for` tells the policy of a proxy by its node id, None for the one of
    the state; `refresh` is to be called when it changes. `on_answer` hears every ACK and NACK and must not block.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        identity_of: Callable[[Any], SpiffeId] = identity_of_peer,
        ready: asyncio.Event | None = None,
        policy_for: Callable[[str], Policy | None] = lambda node_id: None,
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        self._store = store
        self._identity_of = identity_of
        self._ready = ready
        self._policy_for = policy_for
        self._on_answer = on_answer
        self._reconciler = Reconciler()
        # What is built to be looked at only must not drive out what is built to be sent.
        self._previewer = Reconciler()
        self._state_by_policy: tuple[MeshState, MeshState] | None = None
        self._connections: set[_Connection] = set()
        self._draining = asyncio.Event()

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """The handler of both methods of AggregatedDiscoveryService."""
        discovery = "envoy.service.discovery.v3."
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
                    self._serve_delta,
                    envoy_message(f"{discovery}DeltaDiscoveryRequest").FromString,
                    envoy_message(f"{discovery}DeltaDiscoveryResponse").SerializeToString,
                ),
                "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
                    self._serve_state,
                    envoy_message(f"{discovery}DiscoveryRequest").FromString,
                    envoy_message(f"{discovery}DiscoveryResponse").SerializeToString,
                ),
            },
        )

    def proxies(self) -> tuple[ProxyStatus, ...]:
        """All connected proxies."""
        return tuple(connection.stream.status() for connection in self._connections)

    def refresh(self) -> None:
        """Offer every proxy what it should have now; for when `policy_for` has changed."""
        for connection in tuple(self._connections):
            self._offer(connection, self._store.current)

    def preview(self, node_id: str, policy: Policy) -> Snapshot | None:
        """What a connected proxy would get by another policy, None for one that is not connected.

        Raises MeshError when it cannot be built.
        """
        for connection in self._connections:
            if connection.stream.node_id == node_id:
                return self._build(self._previewer, connection, self._with_policy(self._store.current, policy))
        return None

    def has_taken(self, node_id: str, changed: Mapping[str, Mapping[str, str | None]]) -> bool | None:
        """Whether a proxy has acknowledged these versions, by type URL and name; None when it is not connected."""
        streams = [connection.stream for connection in self._connections if connection.stream.node_id == node_id]
        return all(stream.has_taken(changed) for stream in streams) if streams else None

    async def run(self) -> None:
        """Follow the store for ever. When cancelled, all streams end."""
        try:
            async for state in self._store.watch():
                for connection in tuple(self._connections):
                    self._offer(connection, state)
        finally:
            self._draining.set()
            for connection in self._connections:
                connection.wake.set()

    def _offer(self, connection: _Connection, state: MeshState) -> None:
        try:
            snapshot = self._snapshot_of(connection, state)
        except MeshError as err:
            # The proxy keeps what it has; the others must not suffer for it.
            _log.error("snapshot_not_built", node=connection.stream.node_id, reason=err.reason, error=str(err))
            return
        connection.stream.set_snapshot(snapshot, state.version)
        connection.wake.set()

    def _snapshot_of(self, connection: _Connection, state: MeshState) -> Snapshot:
        policy = self._policy_for(connection.stream.node_id)
        if policy is not None:
            state = self._with_policy(state, policy)
        return self._build(self._reconciler, connection, state)

    def _build(self, reconciler: Reconciler, connection: _Connection, state: MeshState) -> Snapshot:
        if connection.spec is None:
            return reconciler.client_snapshot(state, connection.stream.spiffe_id.service)
        return reconciler.sidecar_snapshot(state, connection.spec)

    def _with_policy(self, state: MeshState, policy: Policy) -> MeshState:
        """The state with another policy; remembered, because what is derived from a state is kept in it."""
        if policy.version == state.policy.version:
            return state
        known = self._state_by_policy
        if known is None or known[0] is not state or known[1].policy.version != policy.version:
            known = self._state_by_policy = (state, replace(state, policy=policy))
        return known[1]

    async def _serve_delta(self, requests: AsyncIterator[Any], context: Any) -> None:
        await self._serve(requests, context, DeltaStream)

    async def _serve_state(self, requests: AsyncIterator[Any], context: Any) -> None:
        await self._serve(requests, context, StateStream)

    async def _serve(
        self, requests: AsyncIterator[Any], context: Any, kind: type[DeltaStream] | type[StateStream]
    ) -> None:
        identity = self._identity_of(context)
        first = await _first_request(requests)
        if first is None:
            return
        try:
            connection = self._connect(first, identity, kind)
            await self._wait_ready()
            if self._draining.is_set():
                return
            state = self._store.current
            connection.stream.set_snapshot(self._snapshot_of(connection, state), state.version)
        except MeshError as err:
            _log.warning("node_refused", node=first.node.id[:200], peer=str(identity), reason=err.reason)
            raise
        self._connections.add(connection)
        _log.info("proxy_connected", node=connection.stream.node_id, protocol=connection.stream.protocol)
        reader = asyncio.ensure_future(_read(requests, connection))
        try:
            await self._write(connection, context)
            if reader.done():
                await reader
        finally:
            self._connections.discard(connection)
            _log.info("proxy_disconnected", node=connection.stream.node_id)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _connect(self, first: Any, identity: SpiffeId, kind: type[DeltaStream] | type[StateStream]) -> _Connection:
        node = first.node
        agent = node.user_agent_name
        if node.HasField("user_agent_build_version"):
            version = node.user_agent_build_version.version
            agent = f"{agent} {version.major_number}.{version.minor_number}.{version.patch}"
        self._check_node(node.id, identity)
        spec = None
        if not agent.startswith("gRPC"):
            spec = ProxySpec.from_metadata(node.id, _texts(node.metadata))
        connection = _Connection(kind(node.id, identity, agent), spec)
        connection.stream.on_answer = self._on_answer
        connection.stream.receive(first)
        return connection

    async def _wait_ready(self) -> None:
        """Wait until there is something to say, or the server ends."""
        if self._ready is None or self._ready.is_set():
            return
        waits = {asyncio.ensure_future(event.wait()) for event in (self._ready, self._draining)}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _check_node(self, node_id: str, identity: SpiffeId) -> None:
        """Refuse a node that claims to belong to another service than its certificate says."""
        service = node_id.partition("/")[0]
        if identity != self._store.current.spiffe_id(service):
            raise PermissionDenied(
                f"{identity} may not have the configuration of {node_id!r}.",
                reason="WRONG_NODE",
                field="node.id",
                fix="A node id is SERVICE/INSTANCE of the service in the certificate.",
            )

    async def _write(self, connection: _Connection, context: Any) -> None:
        """Send what is due until the client or the server is done. A slow client holds up only itself."""
        while not self._draining.is_set():
            connection.wake.clear()
            while connection.requests:
                connection.stream.receive(connection.requests.popleft())
                connection.room.set()
            response = connection.stream.next_response()
            if response is not None:
                await context.write(response)
                connection.wake.set()
            elif connection.is_ended and not connection.requests:
                return
            await connection.wake.wait()


def _texts(metadata: Any) -> dict[str, str | None]:
    """The texts in a Struct; None stands for what is none, and may have no form in JSON."""
    fields = metadata.fields
    return {name: it.string_value if it.WhichOneof("kind") == "string_value" else None for name, it in fields.items()}


async def _first_request(requests: AsyncIterator[Any]) -> Any | None:
    """The first request; None when the client has nothing to say. Raises DeadlineExceeded when it keeps silent."""
    try:
        async with asyncio.timeout(_FIRST_REQUEST_SECONDS):
            return await anext(aiter(requests), None)
    except TimeoutError as err:
        raise DeadlineExceeded("The stream says nothing.", fix="Send a request with the node at once.") from err
    except DecodeError as err:
        raise _unreadable() from err


async def _read(requests: AsyncIterator[Any], connection: _Connection) -> None:
    try:
        async for request in requests:
            while len(connection.requests) >= _MOST_WAITING_REQUESTS:
                connection.room.clear()
                await connection.room.wait()
            connection.requests.append(request)
            connection.wake.set()
    except DecodeError as err:
        raise _unreadable() from err
    finally:
        connection.is_ended = True
        connection.wake.set()


def _unreadable() -> InvalidInput:
    return InvalidInput("The request cannot be read.", field="request", fix="Send what the method's contract says.")
