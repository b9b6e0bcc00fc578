"""Envoy's rate limit service: one question for the limits that a call counts for.

Contract: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto
Headers: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from mesh.config.document.edge import Limit
from mesh.errors import ResourceExhausted, Unavailable
from services.gateway.guard.messages import RATE_LIMIT, message
from services.gateway.limits.counter import Counter, Taken
from services.gateway.limits.leases import Leases, size_of_lease

METHOD = f"/{RATE_LIMIT}.RateLimitService/ShouldRateLimit"

_OK, _OVER = 1, 2
_PAUSE = 1
"""Seconds after which to try again when nobody counts."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one limit; `taken` is None when nobody counts."""

    name: str
    limit: Limit
    taken: Taken | None


class OverLimit(ResourceExhausted):
    """A limit is used up; `headers` are those that a client is told, retry-after among them."""

    def __init__(self, summary: str, headers: Mapping[str, str]) -> None:
        super().__init__(summary, reason=headers.get("x-mesh-reason", "OVER_LIMIT"))
        self.headers = headers


class RateLimits:
    """Answers by the limits that are in force."""

    def __init__(
        self, limits: Callable[[], Mapping[str, Limit]], counter: Counter, leases: Leases | None = None
    ) -> None:
        self._limits = limits
        self._counter = counter
        self._leases = leases if leases is not None else Leases()
        self._taking: set[str] = set()
        self._request = message(f"{RATE_LIMIT}.RateLimitRequest")
        self._response = message(f"{RATE_LIMIT}.RateLimitResponse")

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """For the server on the guard's socket."""
        return _Handler(
            grpc.unary_unary_rpc_method_handler(
                self._answer, self._request.FromString, self._response.SerializeToString
            )
        )

    def take_leased(self, name: str, limit: Limit, values: Sequence[str]) -> tuple[str, str] | None:
        """Let a call pass by what was taken in advance; None when it has to be asked for.

        Else the values of the headers ratelimit-policy and ratelimit.
        """
        taken = self._leases.take(_key(name, values))
        return None if taken is None else (_policy(name, limit), f'"{name}";r={taken[0]};t={taken[1]}')

    async def _answer(self, request: Any, context: Any) -> Any:
        asked = [
            (entries[0].value, [entry.value for entry in entries[1:]])
            for entries in (descriptor.entries for descriptor in request.descriptors)
            if entries and entries[0].key == "limit"
        ]
        return await self.answer(asked)

    async def answer(self, asked: Sequence[tuple[str, Sequence[str]]]) -> Any:
        """The RateLimitResponse for limits by name, each with the values of what it is per.

        Limits that are not in force, or any more, do not count.
        """
        limits = self._limits()
        known = [(name, limits[name], values) for name, values in asked if name in limits]
        if len(known) == 1:
            return self._response_to([await self._take(*known[0])])
        return self._response_to(await asyncio.gather(*(self._take(*each) for each in known)))

    async def _take(self, name: str, limit: Limit, values: Sequence[str]) -> _Outcome:
        window, key = int(limit.window.total_seconds()), _key(name, values)
        # Another call may have taken a lease since the guard has asked.
        if leased := self._leases.take(key):
            return _Outcome(name, limit, Taken(True, *leased))
        try:
            size = size_of_lease(limit.requests)
            # One at a time: calls that come at once would take a lease each, and the limit would be gone in leases.
            if size > 1 and key not in self._taking:
                self._taking.add(key)
                try:
                    many = await self._counter.take(key, limit.requests, window, calls=size)
                finally:
                    self._taking.discard(key)
                if many.is_allowed:
                    self._leases.put(key, size - 1, left=many.left, seconds=many.resets_in)
                    return _Outcome(name, limit, replace(many, left=many.left + size - 1))
            return _Outcome(name, limit, await self._counter.take(key, limit.requests, window))
        except Unavailable:
            return _Outcome(name, limit, None)

    def _response_to(self, outcomes: Sequence[_Outcome]) -> Any:
        response = self._response(overall_code=_OK)
        policies: list[str] = []
        states: list[str] = []
        waits: list[int] = []
        reason = ""
        for outcome in outcomes:
            limit, taken = outcome.limit, outcome.taken
            if taken is None:
                if limit.on_failure == "closed":
                    waits.append(_PAUSE)
                    reason = reason or "LIMITS_AWAY"
                continue
            policies.append(_policy(outcome.name, limit))
            states.append(f'"{outcome.name}";r={taken.left};t={taken.resets_in}')
            if not taken.is_allowed:
                waits.append(taken.resets_in)
                reason = "OVER_LIMIT"
        if policies:
            _add(response, "ratelimit-policy", ", ".join(policies))
            _add(response, "ratelimit", ", ".join(states))
        if waits:
            wait = max(waits)
            response.overall_code = _OVER
            what = "A limit is used up." if reason == "OVER_LIMIT" else "A limit cannot be counted at the moment."
            response.raw_body = f"{what} Try again in {wait} s.".encode()
            _add(response, "retry-after", str(wait))
            _add(response, "x-mesh-reason", reason)
        return response


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler if handler_call_details.method == METHOD else None


def _key(name: str, values: Sequence[str]) -> str:
    """Short, the same for the same values only, whatever is in them, and without telling who calls."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        data = value.encode()
        digest.update(len(data).to_bytes(4))
        digest.update(data)
    return f"{name}/{digest.hexdigest()}"


def _policy(name: str, limit: Limit) -> str:
    return f'"{name}";q={limit.requests};w={int(limit.window.total_seconds())}'


def _add(response: Any, name: str, value: str) -> None:
    header = response.response_headers_to_add.add()
    header.key, header.value = name, value
