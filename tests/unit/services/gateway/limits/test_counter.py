"""A window that slides."""

from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Unavailable
from services.gateway.limits import Counter
from services.gateway.limits.counter import wait_for_room
from services.gateway.storage import Circuit
from services.gateway.storage.in_process import InProcessCounts


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class CountingCounts(InProcessCounts):
    """Tells how often it is asked."""

    asked = 0
    fails = False

    async def add(self, key: str, lifetime: int, amount: int = 1) -> int:
        self.asked += 1
        if self.fails:
            raise Unavailable("not there")
        return await super().add(key, lifetime, amount)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts(clock: Clock) -> CountingCounts:
    return CountingCounts(clock=clock)


def counter_of(counts: CountingCounts, clock: Clock) -> Counter:
    return Counter(counts, Circuit("tests", clock=clock), clock=clock)


@pytest.fixture
def counter(counts: CountingCounts, clock: Clock) -> Counter:
    return counter_of(counts, clock)


async def test_as_many_as_allowed_pass_and_no_more(counter: Counter) -> None:
    taken = [await counter.take("a", 3, 10) for _ in range(5)]
    assert [each.is_allowed for each in taken] == [True, True, True, False, False]
    assert [each.left for each in taken] == [2, 1, 0, 0, 0]


async def test_each_key_has_a_count_of_its_own(counter: Counter) -> None:
    assert (await counter.take("a", 1, 10)).is_allowed
    assert (await counter.take("b", 1, 10)).is_allowed
    assert not (await counter.take("a", 1, 10)).is_allowed


async def test_what_came_before_the_turn_of_the_window_still_counts_after_it(counter: Counter, clock: Clock) -> None:
    clock.now += 9
    for _ in range(10):
        assert (await counter.take("a", 10, 10)).is_allowed
    clock.now += 2  # one second into the next window, which covers nine tenths of the one before
    assert (await counter.take("a", 10, 10)).is_allowed
    assert not (await counter.take("a", 10, 10)).is_allowed


async def test_who_waits_as_long_as_told_is_let_in(counter: Counter, clock: Clock) -> None:
    for _ in range(4):
        await counter.take("a", 4, 10)
    for _ in range(20):
        refused = await counter.take("a", 4, 10)
        assert not refused.is_allowed
        clock.now += refused.resets_in
        assert (await counter.take("a", 4, 10)).is_allowed


async def test_who_goes_on_trying_is_let_in_when_there_is_room(counter: Counter, clock: Clock) -> None:
    passed = 0
    for _ in range(3000):
        passed += (await counter.take("a", 10, 10)).is_allowed
        clock.now += 0.01
    # Three windows of ten seconds.
    assert 27 <= passed <= 33


async def test_a_full_count_is_not_asked_for_again(counter: Counter, counts: CountingCounts) -> None:
    await counter.take("a", 1, 10)
    await counter.take("a", 1, 10)
    asked = counts.asked
    for _ in range(100):
        assert not (await counter.take("a", 1, 10)).is_allowed
    assert counts.asked == asked


async def test_a_higher_limit_counts_at_once(counter: Counter) -> None:
    await counter.take("a", 1, 10)
    assert not (await counter.take("a", 1, 10)).is_allowed
    assert (await counter.take("a", 5, 10)).is_allowed


async def test_two_gateways_share_what_may_pass(counts: CountingCounts, clock: Clock) -> None:
    one, other = counter_of(counts, clock), counter_of(counts, clock)
    passed = 0
    for _ in range(10):
        passed += (await one.take("a", 10, 60)).is_allowed
        passed += (await other.take("a", 10, 60)).is_allowed
    assert passed == 10


async def test_without_a_storage_it_says_so(counter: Counter, counts: CountingCounts) -> None:
    counts.fails = True
    with pytest.raises(Unavailable):
        await counter.take("a", 1, 10)


async def test_a_correction_that_fails_refuses_all_the_same(counts: CountingCounts, clock: Clock) -> None:
    counter = counter_of(counts, clock)
    await counter.take("a", 1, 10)
    add: Callable[..., Awaitable[int]] = counts.add

    async def fail_to_correct(key: str, lifetime: int, amount: int = 1) -> int:
        if amount < 0:
            raise Unavailable("not there")
        return await add(key, lifetime, amount)

    counts.add = fail_to_correct  # type: ignore[method-assign]
    assert not (await counter.take("a", 1, 10)).is_allowed


@given(steps=st.lists(st.floats(0.0, 3.0), max_size=80), limit=st.integers(1, 8), window=st.integers(1, 7))
async def test_in_any_window_at_most_twice_the_limit_passes_and_in_aligned_ones_the_limit(
    steps: list[float], limit: int, window: int
) -> None:
    clock = Clock()
    counter = counter_of(CountingCounts(clock=clock), clock)
    passed: list[float] = []
    for step in steps:
        clock.now += step
        if (await counter.take("a", limit, window)).is_allowed:
            passed.append(clock.now)
    for begin in passed:
        assert sum(begin <= time < begin + window for time in passed) < 2 * limit or limit == 1
        aligned = begin // window
        assert sum(time // window == aligned for time in passed) <= limit


@given(
    limit=st.integers(1, 100),
    window=st.integers(1, 100),
    part=st.floats(0.0, 0.999),
    before=st.integers(0, 100),
    current=st.integers(0, 100),
)
def test_after_the_wait_there_is_room_and_a_moment_before_there_is_none(
    limit: int, window: int, part: float, before: int, current: int
) -> None:
    before, current = min(before, limit), min(current, limit)
    elapsed = part * window

    def weighted(wait: float) -> float:
        at = elapsed + wait
        if at < window:
            return before * (1 - at / window) + current + 1
        return current * max(0.0, 1 - (at - window) / window) + 1

    if weighted(0.0) <= limit:
        return
    wait = wait_for_room(limit, window, elapsed, before, current)
    assert weighted(wait + 1e-6 * window) <= limit + 1e-6
    if wait > 2e-3 * window:
        assert weighted(wait - 1e-3 * window) > limit
