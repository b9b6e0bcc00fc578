"""Envoy's rate limit service: one question for the limits that a call counts for.

Contract: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto
Headers: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
"""

from collections.abc import Callable, Mapping
from typing import Any

import grpc

from mesh.config.document.edge import Limit
from mesh.errors import Unavailable
from services.gateway.guard.messages import RATE_LIMIT, message
from services.gateway.limits.counter import Counter

METHOD = f"/{RATE_LIMIT}.RateLimitService/ShouldRateLimit"

_OK, _OVER = 1, 2


class RateLimits:
    """Answers by the limits that are in force."""

    def __init__(self, limits: Callable[[], Mapping[str, Limit]], counter: Counter) -> None:
        self._limits = limits
        self._counter = counter
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

    async def _answer(self, request: Any, context: Any) -> Any:
        asked = [
            (entries[0].value, [entry.value for entry in entries[1:]])
            for entries in (descriptor.entries for descriptor in request.descriptors)
            if entries and entries[0].key == "limit"
        ]
        return await self.answer(asked)

    async def answer(self, asked: list[tuple[str, list[str]]]) -> Any:
        """The RateLimitResponse for limits by name, each with the values of what it is per."""
        limits = self._limits()
        response = self._response(overall_code=_OK)
        policies: list[str] = []
        states: list[str] = []
        waits: list[int] = []
        for name, values in asked:
            limit = limits.get(name)
            if limit is None:
                continue
            window = int(limit.window.total_seconds())
            try:
                count = await self._counter.count("/".join((name, *values)), window)
            except Unavailable:
                if limit.on_failure == "closed":
                    waits.append(1)
                continue
            policies.append(f'"{name}";q={limit.requests};w={window}')
            states.append(f'"{name}";r={max(0, limit.requests - count.number)};t={count.resets_in}')
            if count.number > limit.requests:
                waits.append(count.resets_in)
        if policies:
            _add(response, "ratelimit-policy", ", ".join(policies))
            _add(response, "ratelimit", ", ".join(states))
        if waits:
            response.overall_code = _OVER
            response.raw_body = f"A limit is used up. Try again in {max(waits)} s.".encode()
            _add(response, "retry-after", str(max(waits)))
        return response


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler if handler_call_details.method == METHOD else None


def _add(response: Any, name: str, value: str) -> None:
    header = response.response_headers_to_add.add()
    header.key, header.value = name, value
