import asyncio

from hypothesis import given
from hypothesis import strategies as st

from mesh.config.document.edge import Limit
from services.gateway.limits import Counter, RateLimits
from services.gateway.limits.leases import Leases, size_of_lease
from services.gateway.storage import Circuit
from services.gateway.storage.in_process import InProcessCounts


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


def test_a_lease_is_good_for_its_calls_and_its_time():
    clock = Clock()
    leases = Leases(clock=clock)
    assert leases.take("a") is None
    leases.put("a", 2, left=10, seconds=5)
    assert [leases.take("a"), leases.take("a"), leases.take("a")] == [(11, 5), (10, 5), None]
    leases.put("a", 2, left=10, seconds=5)
    clock.now += 5
    assert leases.take("a") is None


def test_small_limits_are_kept_exactly():
    assert [size_of_lease(limit) for limit in (1, 99, 199, 200, 6000, 1_000_000)] == [1, 1, 1, 2, 60, 100]


@given(requests=st.integers(1, 3000), calls=st.integers(1, 4000), gateways=st.integers(1, 3))
async def test_never_more_pass_than_the_limit_allows_and_hardly_fewer(requests, calls, gateways):
    clock = Clock()
    counts = InProcessCounts(clock=clock)
    limits = {
        "l": Limit.model_validate({"scope": "global", "per": ["principal"], "requests": requests, "window": "1h"})
    }
    each = [
        RateLimits(lambda: limits, Counter(counts, Circuit("t"), clock=clock), Leases(clock=clock))
        for _ in range(gateways)
    ]
    passed = 0
    for number in range(calls):
        own = each[number % gateways]
        leased = own.take_leased("l", limits["l"], ("ann",))
        passed += leased is not None or (await own.answer([("l", ["ann"])])).overall_code == 1
    assert passed <= requests
    assert passed >= min(calls, requests - gateways * size_of_lease(requests))


class LateCounts(InProcessCounts):
    """Others come while it counts."""

    async def add(self, key, lifetime, amount=1):
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().add(key, lifetime, amount)


async def test_calls_that_come_at_once_do_not_use_a_limit_up_in_leases():
    clock = Clock()
    limits = {"l": Limit.model_validate({"scope": "global", "per": ["principal"], "requests": 1000, "window": "1h"})}
    counter = Counter(LateCounts(clock=clock), Circuit("t"), clock=clock)
    own = RateLimits(lambda: limits, counter, Leases(clock=clock))

    async def call():
        leased = own.take_leased("l", limits["l"], ("ann",))
        return leased is not None or (await own.answer([("l", ["ann"])])).overall_code == 1

    passed = 0
    for _ in range(30):
        passed += sum(await asyncio.gather(*(call() for _ in range(64))))
    assert 1000 - size_of_lease(1000) <= passed <= 1000
