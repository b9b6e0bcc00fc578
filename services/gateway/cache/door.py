"""Answers calls from what is kept, or by the service.

How HTTP is told of it: RFC 9111 (Age, Cache-Control), RFC 9110 (ETag), RFC 9211 (Cache-Status). The edge itself answers
If-None-Match by the ETag.
"""

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeGuard

import grpc
from opentelemetry import metrics

from mesh.errors import MeshError, Unavailable
from mesh.rpc import SELECTOR, call_context
from mesh.rpc.contracts import find_reads, public_reads
from mesh.rpc.status import DETAILS_KEY
from services.gateway.cache.flights import Flights
from services.gateway.cache.generations import Generations
from services.gateway.cache.kept import LARGEST, Entry, Kept
from services.gateway.cache.question import Question
from services.gateway.cache.upstream import Upstream
from services.gateway.guard.view import AccessView
from services.gateway.web.caller import principal_of

Outcome = Entry | grpc.aio.AioRpcError | MeshError
Call = Callable[[str, str, bytes], Awaitable[bytes]]

_NAME = "agentmesh"
# What makes an answer that of one principal: a browser in which somebody else logs in must not show it.
_VARY = "authorization, x-api-key"


class CacheDoor(grpc.GenericRpcHandler):
    """Serves the public reads of services that the header x-mesh-service names, which Envoy sets for rules only."""

    def __init__(
        self,
        view: Callable[[], AccessView | None],
        generations: Generations,
        kept: Kept,
        flights: Flights,
        upstream: Upstream,
    ) -> None:
        self._rules = _Rules(view)
        self._generations = generations
        self._kept = kept
        self._flights = flights
        self._upstream = upstream
        # One for each: the server wraps each handler that it sees, and remembers it.
        self._handlers: dict[str, Any] = {
            f"/{method}": grpc.unary_unary_rpc_method_handler(self._answer) for method in public_reads()
        }
        meter = metrics.get_meter("agentmesh")
        self._answers = meter.create_counter("gateway.cache.answers", description="Answers by where they are from.")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a public read that names a service; None for all others."""
        if any(name == SELECTOR and value for name, value in handler_call_details.invocation_metadata or ()):
            return self._handlers.get(handler_call_details.method)
        return None

    async def _answer(self, request: bytes, context: Any) -> bytes:
        facts = call_context()
        metadata = dict(context.invocation_metadata())
        service, method = str(metadata[SELECTOR]), facts.method.removeprefix("/")
        ttl = self._rules.ttl_of(service, method)
        wishes = str(metadata.get("cache-control", "")).lower().replace(" ", "").split(",")
        # Without a token it would not be known whose the answer is.
        if ttl is None or not facts.user_token or "no-store" in wishes:
            outcome = await self._fetch(self._upstream.call, service, method, request)
            return await self._tell(context, outcome, 0.0, "fwd=bypass")
        generation = self._generations.of(service)
        question = Question(service, method, request, principal_of(facts.user_token), generation)
        is_fresh_wanted = "no-cache" in wishes or "max-age=0" in wishes
        epoch: bytes | None = None
        # Without the storage every call goes on to the service; the circuit has said so in the log.
        with contextlib.suppress(Unavailable):
            found = await self._kept.find(question)
            epoch = found.epoch
            if found.entry is not None and not is_fresh_wanted:
                left = max(0, int(ttl) - self._kept.age_of(found.entry))
                return await self._tell(context, found.entry, ttl, f"hit; ttl={left}")

        async def work(give: Callable[[Outcome], None]) -> None:
            outcome = await self._fetch(self._upstream.call_for_many, service, method, request)
            give(outcome)
            if epoch is not None and _can_be_kept(outcome):
                with contextlib.suppress(Unavailable):
                    await self._kept.keep(question, outcome, epoch, ttl)

        # Who wants a fresh answer does not want one that somebody has asked for before.
        key = question.digest + (secrets.token_bytes(16) if is_fresh_wanted else epoch or b"")
        outcome, is_collapsed = await self._flights.join(key, work)
        status = "fwd=request" if is_fresh_wanted else "fwd=uri-miss"
        if epoch is not None and _can_be_kept(outcome):
            status += "; stored"
        return await self._tell(context, outcome, ttl, f"{status}; collapsed" if is_collapsed else status)

    async def _fetch(self, call: Call, service: str, method: str, request: bytes) -> Outcome:
        try:
            return self._kept.received(await call(service, method, request))
        except (grpc.aio.AioRpcError, MeshError) as err:
            return err

    async def _tell(self, context: Any, outcome: Outcome, ttl: float, status: str) -> bytes:
        self._answers.add(1, {"status": status.partition(";")[0]})
        if isinstance(outcome, MeshError):
            raise outcome
        if isinstance(outcome, grpc.aio.AioRpcError):
            # As the service has said it: an error of the service's is none of the gateway's.
            details = [(name, value) for name, value in outcome.trailing_metadata() or () if name == DETAILS_KEY]
            await context.abort(outcome.code(), outcome.details() or "", tuple(details))
        assert isinstance(outcome, Entry)
        await context.send_initial_metadata(tuple(self._headers(outcome, ttl, status)))
        return outcome.body

    def _headers(self, entry: Entry, ttl: float, status: str) -> Iterable[tuple[str, str]]:
        yield "cache-status", f"{_NAME}; {status}"
        if status == "fwd=bypass":
            return
        yield "cache-control", f"private, max-age={int(ttl)}"
        yield "vary", _VARY
        yield "etag", entry.etag
        yield "age", str(self._kept.age_of(entry))


def _can_be_kept(outcome: Outcome) -> TypeGuard[Entry]:
    return isinstance(outcome, Entry) and len(outcome.body) <= LARGEST


class _Rules:
    """How long answers are kept, by the rules in force."""

    def __init__(self, view: Callable[[], AccessView | None]) -> None:
        self._view = view
        self._known_for: AccessView | None = None
        self._known: dict[tuple[str, str], float | None] = {}

    def ttl_of(self, service: str, method: str) -> float | None:
        """Seconds, the least that any rule says; None when no rule is about the method."""
        view = self._view()
        if view is not self._known_for:
            self._known, self._known_for = {}, view
        if view is None:
            return None
        if (service, method) not in self._known:
            found = [
                rule.ttl.total_seconds()
                for rule in view.edge.cache.values()
                if "*" in rule.services or service in rule.services
                if any(method in find_reads(pattern) for pattern in rule.methods)
            ]
            self._known[service, method] = min(found, default=None)
        return self._known[service, method]
