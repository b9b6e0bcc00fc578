"""Envoy's Load Reporting Service: each proxy is told what to report, and its reports are taken in.

Protocol: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/load_stats/v3/lrs.proto
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mesh.errors import DeadlineExceeded, InvalidInput, PermissionDenied, ResourceExhausted, Unavailable
from mesh.model import SpiffeId
from mesh.state import StateStore
from mesh.telemetry import get_logger
from mesh.xds.descriptors import envoy_message
from mesh.xds.load import Report
from mesh.xds.load_reports import NOTHING, LoadReports, Order, Source
from mesh.xds.peer import identity_of_peer
from mesh.xds.resources.timing import is_timed, milliseconds_of

SERVICE = "envoy.service.load_stats.v3.LoadReportingService"

_FIRST_REQUEST_SECONDS = 15.0
_LONGEST_REPORT = 4 << 20
_MOST_REPORTS = 20
"""Reports that may come at once; beyond it two a second are taken. Envoy sends one a second at most."""
_REFILL = 2.0
_MOST_REQUESTS = 10_000_000
"""Of one kind in one report. No proxy serves more between two reports; larger numbers are made up."""

_log = get_logger(__name__)


class _Connection:
    """A stream with its way to be woken."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.wake = asyncio.Event()
        self.is_replaced = False


class LoadReportServer:
    """Serves LRS into `reports`. Belongs to one event loop; `handler` goes on a grpc.aio server, `run` into a task.

    A proxy has one stream; a second one takes the place of the first. Of several control planes only the one that
    `leads` takes streams, as it is the one that judges: Envoy tries again, and another one, 5 s after a refusal.
    """

    def __init__(
        self,
        store: StateStore,
        reports: LoadReports,
        *,
        leads: Callable[[], bool] = lambda: True,
        identity_of: Callable[[Any], SpiffeId] = identity_of_peer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._reports = reports
        self._leads = leads
        self._identity_of = identity_of
        self._clock = clock
        self._connections: dict[str, _Connection] = {}
        self._draining = False

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """The handler of LoadReportingService. Requests stay bytes until it is known that they are wanted."""
        response = envoy_message("envoy.service.load_stats.v3.LoadStatsResponse")
        stream: Any = grpc.stream_stream_rpc_method_handler(self._serve, None, response.SerializeToString)
        return grpc.method_handlers_generic_handler(SERVICE, {"StreamLoadStats": stream})

    async def run(self) -> None:
        """Follow the mesh document for ever: its subsets are clusters that are timed. When cancelled, streams end."""
        try:
            document = None
            async for state in self._store.watch():
                if state.policy.document is not document:
                    document = state.policy.document
                    self._reports.wake()
        finally:
            self._draining = True
            for connection in self._connections.values():
                connection.wake.set()

    def wake(self) -> None:
        """Let every stream see whether this control plane still leads."""
        self._reports.wake()

    async def _serve(self, requests: AsyncIterator[bytes], context: Any) -> None:
        identity = self._identity_of(context)
        first = await _first_request(requests)
        if first is None or self._draining:
            return
        node_id = first.node.id
        self._check_node(node_id, identity)
        connection = _Connection(node_id)
        if (older := self._connections.get(node_id)) is not None:
            older.is_replaced = True
            older.wake.set()
        self._connections[node_id] = connection
        source = self._reports.connect(node_id, connection.wake.set)
        reader = asyncio.ensure_future(self._read(requests, source))
        reader.add_done_callback(lambda _: connection.wake.set())
        try:
            await self._write(connection, source, context, reader)
            if reader.done():
                await reader
        finally:
            self._reports.disconnect(source)
            if self._connections.get(node_id) is connection:
                del self._connections[node_id]
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _write(self, connection: _Connection, source: Source, context: Any, reader: asyncio.Future[None]) -> None:
        """Send the newest order whenever it has changed. A slow client holds up only itself."""
        sent = NOTHING
        while not (self._draining or connection.is_replaced or reader.done()):
            if not self._leads():
                raise Unavailable(
                    "This control plane does not lead.", reason="NOT_LEADER", fix="Report to another control plane."
                )
            connection.wake.clear()
            order = self._reports.order_for(connection.node_id)
            if order != sent:
                self._reports.note_ordered(source, order)
                await context.write(_to_response(order))
                sent = order
            await connection.wake.wait()

    async def _read(self, requests: AsyncIterator[bytes], source: Source) -> None:
        allowance, filled = float(_MOST_REPORTS), self._clock()
        async for request in requests:
            now = self._clock()
            allowance = min(_MOST_REPORTS, allowance + (now - filled) * _REFILL) - 1
            filled = now
            if allowance < 0:
                raise ResourceExhausted(
                    "Load reports come too fast.",
                    reason="TOO_MANY_REPORTS",
                    fix="Report at the interval that was asked for.",
                )
            self._reports.take(source, dict(_parse_reports(request)))

    def _check_node(self, node_id: str, identity: SpiffeId) -> None:
        """Refuse a node that claims to belong to another service than its certificate says."""
        service = node_id.partition("/")[0]
        if identity != self._store.current.spiffe_id(service):
            _log.warning("node_refused", node=node_id[:200], peer=str(identity), reason="WRONG_NODE")
            raise PermissionDenied(
                f"{identity} may not report for {node_id!r}.",
                reason="WRONG_NODE",
                field="node.id",
                fix="A node id is SERVICE/INSTANCE of the service in the certificate.",
            )


async def _first_request(requests: AsyncIterator[bytes]) -> Any | None:
    """The first request; None when the client has nothing to say. Raises DeadlineExceeded when it keeps silent."""
    try:
        async with asyncio.timeout(_FIRST_REQUEST_SECONDS):
            first = await anext(aiter(requests), None)
    except TimeoutError as err:
        raise DeadlineExceeded("The stream says nothing.", fix="Send a request with the node at once.") from err
    return None if first is None else _parse(first)


def _parse(request: bytes) -> Any:
    if len(request) > _LONGEST_REPORT:
        raise InvalidInput(
            f"A report of {len(request)} bytes is not read.", field="request", fix=f"Send at most {_LONGEST_REPORT}."
        )
    try:
        return envoy_message("envoy.service.load_stats.v3.LoadStatsRequest").FromString(request)
    except DecodeError as err:
        raise InvalidInput(
            "The request cannot be read.", field="request", fix="Send what the method's contract says."
        ) from err


def _parse_reports(request: bytes) -> list[tuple[str, Report]]:
    return [(stats.cluster_name, _parse_report(stats)) for stats in _parse(request).cluster_stats]


def _parse_report(stats: Any) -> Report:
    issued = ok = errors = in_progress = 0
    answered: dict[int, int] | None = {} if is_timed(stats.cluster_name) else None
    for locality in stats.upstream_locality_stats:
        issued += locality.total_issued_requests
        ok += locality.total_successful_requests
        errors += locality.total_error_requests
        in_progress += locality.total_requests_in_progress
        if answered is not None:
            for metric in locality.load_metric_stats:
                took = milliseconds_of(metric.metric_name)
                if took is not None:
                    answered[took] = answered.get(took, 0) + _bounded(metric.num_requests_finished_with_metric)
    return Report(_bounded(issued), _bounded(ok), _bounded(errors), _bounded(in_progress), answered)


def _bounded(count: int) -> int:
    return min(count, _MOST_REQUESTS)


def _to_response(order: Order) -> Any:
    response = envoy_message("envoy.service.load_stats.v3.LoadStatsResponse")(
        clusters=order.clusters, send_all_clusters=order.is_all
    )
    response.load_reporting_interval.FromTimedelta(timedelta(seconds=order.interval))
    return response
