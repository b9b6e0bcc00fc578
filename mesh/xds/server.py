"""The ADS server: streams of proxies on one side, the state of the mesh on the other."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import grpc

from mesh.config.document import Policy
from mesh.errors import MeshError, PermissionDenied, Unauthenticated
from mesh.model import SpiffeId
from mesh.runtime import open_background
from mesh.state import StateStore
from mesh.telemetry import get_logger
from mesh.xds.admission import Admission
from mesh.xds.answers import Answer
from mesh.xds.connection import Connection, read_first
from mesh.xds.descriptors import envoy_message
from mesh.xds.lane import Lane
from mesh.xds.limits import check_streams
from mesh.xds.peer import Peer, expiry_of_peer, identity_of_peer, parse_peer
from mesh.xds.responses import DeltaResponse, StateResponse
from mesh.xds.snapshot import Snapshot
from mesh.xds.status import ProxyStatus, utc_now
from mesh.xds.stream import DeltaStream, StateStream

_log = get_logger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

SHORTEST_GAP = 0.01
LONGEST_GAP = 0.05
"""Seconds between the end of one round of changes and the next. A change after a quiet time goes out at once; a burst
goes out in rounds, and the more one round costs, the longer changes are gathered for the next."""

_SLICE = 0.002
"""Seconds for which a round may hold the event loop before others have their turn."""

_EARLY = 0.1
"""A stream ends in this last part of what its certificate has left to live, at a moment that chance chooses: proxies
that came together do not come back together."""


class AdsServer:
    """Serves ADS from `store`. Belongs to one event loop; `handler` goes on a grpc.aio server, `run` into a task.

    Streams wait for `ready`, if one is given, before they say anything: a control plane that knows nothing yet must
    not tell proxies that nothing exists. A stream does not outlive the certificate that it was opened with: it ends
    with status OK, and the proxy comes back with its new one. `policy_for` tells the policy of a proxy by its node id,
    None for the one of the state; `refresh` is to be called when it changes. `on_answer` hears every ACK and NACK and
    must not block.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        identity_of: Callable[[Any], SpiffeId] = identity_of_peer,
        expiry_of: Callable[[Any], datetime | None] = expiry_of_peer,
        ready: asyncio.Event | None = None,
        policy_for: Callable[[str], Policy | None] = lambda node_id: None,
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        self._store = store
        self._identity_of = identity_of
        self._expiry_of = expiry_of
        self._ready = ready
        self._policy_for = policy_for
        self._on_answer = on_answer
        self._admission = Admission()
        self._main = Lane()
        self._trials: dict[str, Lane] = {}
        self._lane_of: dict[Connection, Lane] = {}
        self._by_node: dict[str, set[Connection]] = {}
        self._news = asyncio.Event()
        self._streams: Counter[SpiffeId] = Counter()
        self._revoked: frozenset[str] = frozenset()
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
                    DeltaResponse.to_bytes,
                ),
                "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
                    self._serve_state,
                    envoy_message(f"{discovery}DiscoveryRequest").FromString,
                    StateResponse.to_bytes,
                ),
            },
        )

    def proxies(self) -> tuple[ProxyStatus, ...]:
        """All connected proxies."""
        return tuple(connection.stream.status() for connection in self._lane_of)

    def refresh(self) -> None:
        """Offer every proxy what it should have, in a moment; for when `policy_for` has changed."""
        for connection in tuple(self._lane_of):
            lane = self._lane_for(connection)
            if lane is not (before := self._lane_of[connection]):
                lane.take_over(connection)
                self._lane_of[connection] = lane
                self._leave(before, connection)
        self._news.set()

    def preview(self, node_id: str, policy: Policy) -> Snapshot | None:
        """What a connected proxy would get by another policy, None for one that is not connected.

        Raises MeshError when it cannot be built.
        """
        for connection in self._by_node.get(node_id, ()):
            return self._main.preview(connection.spec, self._store.current, policy)
        return None

    def has_taken(self, node_id: str, changed: Mapping[str, Mapping[str, str | None]]) -> bool | None:
        """Whether a proxy has acknowledged these versions, by type URL and name; None when it is not connected."""
        found = self._by_node.get(node_id)
        return all(connection.stream.has_taken(changed) for connection in found) if found else None

    def refusals(self) -> tuple[Answer, ...]:
        """What the connected proxies have refused and would not be sent again."""
        return tuple(answer for connection in self._lane_of for answer in connection.stream.refusals())

    async def run(self) -> None:
        """Follow the store for ever. When cancelled, all streams end."""
        try:
            async with open_background(self._follow_store()):
                while True:
                    await self._news.wait()
                    self._news.clear()
                    started = time.monotonic()
                    await self._spread()
                    await asyncio.sleep(min(LONGEST_GAP, max(SHORTEST_GAP, time.monotonic() - started)))
        finally:
            self._draining.set()
            for connection in self._lane_of:
                connection.end()

    async def _follow_store(self) -> None:
        async for _ in self._store.watch():
            self._news.set()

    async def _spread(self) -> None:
        """Give everybody whom a change concerns the new snapshot. Others have a turn now and then."""
        self._end_revoked()
        until = time.monotonic() + _SLICE
        for lane in (self._main, *self._trials.values()):
            lane.advance(self._store.current)
            while (connections := lane.next_affected()) is not None:
                for connection in connections:
                    self._offer(connection, lane)
                if time.monotonic() >= until:
                    await asyncio.sleep(0)
                    until = time.monotonic() + _SLICE

    def _end_revoked(self) -> None:
        """Those whose identity was revoked hear nothing more; what they have is of no use, since others refuse them."""
        revoked = self._store.current.revoked
        if revoked != self._revoked:
            self._revoked = revoked
            for connection in self._lane_of:
                if connection.stream.spiffe_id.service in revoked:
                    _log.warning("stream_of_revoked_ended", node=connection.stream.node_id)
                    connection.end()

    def _offer(self, connection: Connection, lane: Lane) -> None:
        try:
            # The newest state, also when it has come after the round began.
            lane.offer(connection, self._store.current)
        except MeshError as err:
            # The proxy keeps what it has; the others must not suffer for it.
            _log.error("snapshot_not_built", node=connection.stream.node_id, reason=err.reason, error=str(err))

    def _lane_for(self, connection: Connection) -> Lane:
        policy = self._policy_for(connection.stream.node_id)
        if policy is None:
            return self._main
        if policy.version not in self._trials:
            self._trials[policy.version] = Lane(policy)
        return self._trials[policy.version]

    def _leave(self, lane: Lane, connection: Connection) -> None:
        lane.leave(connection)
        if lane.policy is not None and lane.is_empty:
            self._trials.pop(lane.policy.version, None)

    async def _serve_delta(self, requests: AsyncIterator[Any], context: Any) -> None:
        await self._serve(requests, context, DeltaStream)

    async def _serve_state(self, requests: AsyncIterator[Any], context: Any) -> None:
        await self._serve(requests, context, StateStream)

    async def _serve(
        self, requests: AsyncIterator[Any], context: Any, kind: type[DeltaStream] | type[StateStream]
    ) -> None:
        identity = self._identity_of(context)
        async with AsyncExitStack() as stack:
            lifetime = self._lifetime(context, identity)
            self._count(identity, stack)
            first = await read_first(requests)
            if first is None:
                return
            try:
                peer = self._check_peer(first.node, identity)
                stream = kind(peer.node_id, identity, peer.agent)
                stream.on_answer = self._on_answer
                stream.receive(first)
                await self._wait_ready()
                leave = await self._admission.enter()
                stack.callback(leave)
                if self._draining.is_set():
                    return
                connection = Connection(stream, peer.spec, on_settled=leave)
                self._connect(connection, stack)
            except MeshError as err:
                _log.warning("node_refused", node=first.node.id[:200], peer=str(identity), reason=err.reason)
                raise
            if lifetime is not None:
                timer = asyncio.get_running_loop().call_later(lifetime, self._expire, connection)
                stack.callback(timer.cancel)
            await _exchange(connection, requests, context)

    def _check_peer(self, node: Any, identity: SpiffeId) -> Peer:
        """Refuse a node that claims to belong to another service than its certificate says."""
        if identity != self._store.current.spiffe_id(node.id.partition("/")[0]):
            raise PermissionDenied(
                f"{identity} may not have the configuration of {node.id!r}.",
                reason="WRONG_NODE",
                field="node.id",
                fix="A node id is SERVICE/INSTANCE of the service in the certificate.",
            )
        if identity.service in self._store.current.revoked:
            raise PermissionDenied(
                f"The identity of {identity.service} was revoked.",
                reason="IDENTITY_REVOKED",
                fix=f"An operator takes it back with `meshctl certs restore {identity.service}`.",
            )
        return parse_peer(node, identity)

    def _count(self, identity: SpiffeId, stack: AsyncExitStack) -> None:
        """Take one of the streams that an identity may have, until the end."""
        check_streams(identity, self._streams[identity] + 1)
        self._streams[identity] += 1

        def leave() -> None:
            self._streams[identity] -= 1
            if not self._streams[identity]:
                del self._streams[identity]

        stack.callback(leave)

    def _connect(self, connection: Connection, stack: AsyncExitStack) -> None:
        """Give the connection what it should have, now and at every change until the end."""
        node = connection.stream.node_id
        lane = self._lane_for(connection)
        try:
            lane.offer(connection, self._store.current)
        except MeshError:
            self._leave(lane, connection)
            raise
        lane.join(connection)
        self._lane_of[connection] = lane
        self._by_node.setdefault(node, set()).add(connection)
        stack.callback(self._disconnect, connection)
        _log.info("proxy_connected", node=node, protocol=connection.stream.protocol)

    def _disconnect(self, connection: Connection) -> None:
        node = connection.stream.node_id
        self._leave(self._lane_of.pop(connection), connection)
        found = self._by_node[node]
        found.discard(connection)
        if not found:
            del self._by_node[node]
        _log.info("proxy_disconnected", node=node)

    def _lifetime(self, context: Any, identity: SpiffeId) -> float | None:
        """Seconds after which a stream must end; None when it may stay. Raises Unauthenticated when it is too late.

        A certificate is checked in the TLS handshake, and a connection may be older than its streams.
        """
        expiry = self._expiry_of(context)
        if expiry is None:
            return None
        left = (expiry - utc_now()).total_seconds()
        if left <= 0:
            raise Unauthenticated(
                f"The certificate of {identity} has expired at {expiry:%Y-%m-%d %H:%M:%S} UTC.",
                reason="CERTIFICATE_EXPIRED",
                fix="Open a new connection with a renewed certificate.",
            )
        return left * (1 - _EARLY * random.random())  # noqa: S311 - spreads load, keeps no secret

    def _expire(self, connection: Connection) -> None:
        _log.info("stream_expired", node=connection.stream.node_id)
        connection.end()

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


async def _exchange(connection: Connection, requests: AsyncIterator[Any], context: Any) -> None:
    reader = asyncio.ensure_future(connection.read(requests))
    try:
        await connection.write(context)
        if reader.done():
            await reader
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
