"""What Envoy is told about limits."""

from datetime import timedelta
from typing import Any

import pytest

from mesh.config.document.edge import Limit
from mesh.errors import Unavailable
from services.gateway.limits import Counter, RateLimits
from services.gateway.storage import Circuit
from services.gateway.storage.in_process import InProcessCounts

OK, OVER = 1, 2


def limit(requests: int = 2, **more: Any) -> Limit:
    return Limit(scope="global", per=["principal"], requests=requests, window=timedelta(seconds=60), **more)


class NoCounts(InProcessCounts):
    async def add(self, key: str, lifetime: int, amount: int = 1) -> int:
        raise Unavailable("not there")


def service_of(limits: dict[str, Limit], counts: InProcessCounts | None = None) -> RateLimits:
    # The first second of a window.
    counter = Counter(counts or InProcessCounts(), Circuit("tests"), clock=lambda: 1_200_000.0)
    return RateLimits(lambda: limits, counter)


def headers(response: Any) -> dict[str, str]:
    return {header.key: header.value for header in response.response_headers_to_add}


async def test_a_call_within_the_limit_passes_and_is_told_how_many_are_left() -> None:
    response = await service_of({"each": limit(5)}).answer([("each", ["user:ann"])])
    assert response.overall_code == OK
    assert headers(response) == {"ratelimit-policy": '"each";q=5;w=60', "ratelimit": '"each";r=4;t=60'}


async def test_a_call_above_the_limit_is_told_when_to_come_again() -> None:
    service = service_of({"each": limit(1)})
    await service.answer([("each", ["user:ann"])])
    response = await service.answer([("each", ["user:ann"])])
    assert response.overall_code == OVER
    assert headers(response)["retry-after"] == "120"
    assert headers(response)["ratelimit"] == '"each";r=0;t=120'
    assert headers(response)["x-mesh-reason"] == "OVER_LIMIT"
    assert b"120 s" in response.raw_body


async def test_of_several_limits_one_that_is_used_up_is_enough() -> None:
    service = service_of({"few": limit(1), "many": limit(100)})
    asked = [("few", ["user:ann"]), ("many", ["user:ann"])]
    assert (await service.answer(asked)).overall_code == OK
    response = await service.answer(asked)
    assert response.overall_code == OVER
    assert headers(response)["ratelimit"] == '"few";r=0;t=120, "many";r=98;t=60'


async def test_values_that_look_alike_when_joined_are_counted_apart() -> None:
    service = service_of({"each": limit(1)})
    for values in (["a/b", "c"], ["a", "b/c"], ["a", "b", "c"], ["a\0b", "c"], ["a", "b\0c"]):
        assert (await service.answer([("each", values)])).overall_code == OK


async def test_limits_that_are_no_more_in_force_do_not_count() -> None:
    response = await service_of({}).answer([("gone", ["user:ann"])])
    assert response.overall_code == OK
    assert headers(response) == {}


async def test_without_a_counter_an_open_limit_lets_pass() -> None:
    response = await service_of({"each": limit(1)}, NoCounts()).answer([("each", ["user:ann"])])
    assert response.overall_code == OK
    assert headers(response) == {}


async def test_without_a_counter_a_closed_limit_refuses_and_says_why() -> None:
    response = await service_of({"each": limit(1, on_failure="closed")}, NoCounts()).answer([("each", ["user:ann"])])
    assert response.overall_code == OVER
    assert headers(response) == {"retry-after": "1", "x-mesh-reason": "LIMITS_AWAY"}


async def test_envoys_question_is_read_by_the_names_of_its_entries() -> None:
    service = service_of({"each": limit(1)})
    handler = service.handler.service(_Details())
    request = service._request(domain="edge")
    entries = request.descriptors.add().entries
    entries.add(key="limit", value="each")
    entries.add(key="principal", value="user:ann")
    request.descriptors.add().entries.add(key="other", value="each")
    assert (await handler.unary_unary(request, None)).overall_code == OK
    assert (await handler.unary_unary(request, None)).overall_code == OVER


def test_other_methods_are_not_served() -> None:
    assert service_of({}).handler.service(_Details("/grpc.health.v1.Health/Check")) is None


class _Details:
    def __init__(self, method: str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit") -> None:
        self.method = method
        self.invocation_metadata = ()


@pytest.mark.parametrize("text", ["", "x" * 10_000, "\u00e4\U0001f600"])
async def test_any_value_makes_a_short_key(text: str) -> None:
    assert (await service_of({"each": limit(1)}).answer([("each", [text])])).overall_code == OK
