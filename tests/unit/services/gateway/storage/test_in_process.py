"""Storage in the memory of this process is bounded, and forgets in time."""

import pytest

from services.gateway.storage.in_process import InProcessAnswers, InProcessCounts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_numbers_add_up_until_their_time_is_over(clock: Clock) -> None:
    counts = InProcessCounts(clock=clock)
    assert [await counts.add("a", 10), await counts.add("a", 10, 5), await counts.add("a", 10, -1)] == [1, 6, 5]
    assert await counts.get("a") == 5
    clock.now = 10.0
    assert await counts.get("a") == 0
    assert await counts.add("a", 10) == 1


async def test_ended_numbers_take_no_memory(clock: Clock) -> None:
    counts = InProcessCounts(clock=clock)
    for number in range(1000):
        clock.now = float(number)
        await counts.add(f"key-{number}", 10)
    assert len(counts._counts) <= 11


async def test_there_are_never_more_numbers_than_the_bound(clock: Clock) -> None:
    counts = InProcessCounts(most=100, clock=clock)
    for number in range(1000):
        await counts.add(f"key-{number}", 10)
    assert len(counts._counts) == 100
    assert await counts.get("key-999") == 1


async def test_answers_are_kept_until_their_time_is_over(clock: Clock) -> None:
    answers = InProcessAnswers(clock=clock)
    await answers.put("a", b"one", 5.0)
    assert await answers.get(["a", "b"]) == [b"one", None]
    clock.now = 5.0
    assert await answers.get(["a"]) == [None]
    assert answers.size == 0


async def test_a_new_answer_replaces_the_old_one(clock: Clock) -> None:
    answers = InProcessAnswers(clock=clock)
    await answers.put("a", b"x" * 1000, 5.0)
    size = answers.size
    await answers.put("a", b"y" * 1000, 5.0)
    assert answers.size == size
    assert await answers.get(["a"]) == [b"y" * 1000]


async def test_what_was_asked_for_last_stays_when_room_is_short(clock: Clock) -> None:
    answers = InProcessAnswers(most_bytes=4000, clock=clock)
    for name in "abc":
        await answers.put(name, b"x" * 1000, 5.0)
    await answers.get(["a"])
    await answers.put("d", b"x" * 1000, 5.0)
    kept = await answers.get(["a", "b", "c", "d"])
    assert [each is not None for each in kept] == [True, False, True, True]
    assert answers.size <= 4000


async def test_an_answer_that_is_larger_than_all_room_is_not_kept(clock: Clock) -> None:
    answers = InProcessAnswers(most_bytes=1000, clock=clock)
    await answers.put("a", b"x" * 2000, 5.0)
    assert await answers.get(["a"]) == [None]
    assert answers.size == 0
