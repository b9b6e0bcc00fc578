"""Lets requests in to doors that ask no guard: what Envoy knows of a request comes with it, in headers of the route's.

    Envoy ──x-mesh-tokens, x-mesh-peer──> Entrance ──> Admission ──> Caller
                                             └──> limits that nobody has counted in advance

A question of Envoy's to the guard for each request would cost as much as all else that the gateway does for a call.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Send

from mesh.access import GATEWAY, Target
from mesh.rpc.context import PEER, TOKEN_FACTS
from services.gateway.guard.admission import Admission, Request
from services.gateway.limits import OverLimit, RateLimits
from services.gateway.web.caller import Caller

_OVER_LIMIT = 2


class Entrance:
    """Decides about whole requests; what is called behind the door is decided there."""

    def __init__(self, admission: Admission, limits: RateLimits) -> None:
        self._admission = admission
        self._limits = limits

    async def let_in(self, path: str, query: bytes, headers: Mapping[str, str], send: Send) -> tuple[Caller, Send]:
        """Who calls, and the way to answer, which says what is left of limits.

        `headers` are those that the own Envoy has passed on, by their names in lower case. Raises Unauthenticated,
        PermissionDenied, Unavailable or ResourceExhausted.
        """
        told = headers.get(TOKEN_FACTS)
        request = Request(
            path=f"{path}?{query.decode('latin-1')}" if query else path,
            headers=headers,
            tokens=_read(told) if told else {},
            peer=headers.get(PEER, ""),
            client=headers.get("x-envoy-external-address", ""),
            correlation_id=headers.get("x-correlation-id", "")[:128],
        )
        admitted = self._admission.admit(request, Target(GATEWAY, path))
        limits = admitted.limits
        if admitted.to_ask:
            limits = (*limits, *await self._count(admitted.to_ask))
        caller = Caller(
            admitted.principal,
            admitted.token,
            request.correlation_id,
            request.client,
            headers.get("traceparent", ""),
        )
        return caller, with_headers(send, limits) if limits else send

    async def _count(self, asked: Mapping[str, Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
        answer: Any = await self._limits.answer([(name, tuple(values.values())) for name, values in asked.items()])
        headers = tuple((each.key, each.value) for each in answer.response_headers_to_add)
        if answer.overall_code == _OVER_LIMIT:
            raise OverLimit(answer.raw_body.decode(), dict(headers))
        return headers


def with_headers(send: Send, headers: tuple[tuple[str, str], ...]) -> Send:
    """A way to answer with more headers."""
    more = [(name.encode(), value.encode()) for name, value in headers]

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return send_more


def _read(told: str) -> Mapping[str, Any]:
    """What Envoy's jwt_authn has found: JSON in UTF-8, in a header that is read as Latin-1."""
    found: Mapping[str, Any] = json.loads(told.encode("latin-1"))
    return found
