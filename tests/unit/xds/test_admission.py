"""First configurations are given to a few at a time; who is slow to take its own keeps nobody out for long."""

import asyncio

from mesh.xds.admission import Admission


async def test_there_are_so_many_places_and_they_are_given_in_the_order_of_asking():
    admission = Admission(places=2, longest=60)
    async with asyncio.timeout(5):
        first, _ = await admission.enter(), await admission.enter()
        waiting = [asyncio.ensure_future(admission.enter()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(it.done() for it in waiting)
        first()
        first()
        leave = await waiting[0]
        await asyncio.sleep(0)
        assert not waiting[1].done(), "a place that is given back twice is one place"
        leave()
        (await waiting[1])()


async def test_a_place_that_is_not_given_back_in_time_is_taken_back():
    admission = Admission(places=1, longest=0.01)
    async with asyncio.timeout(5):
        stuck = await admission.enter()
        (await admission.enter())()
        stuck()
        again = await admission.enter()
        waiting = asyncio.ensure_future(admission.enter())
        await asyncio.sleep(0)
        assert not waiting.done(), "who was taken its place has none to give back"
        again()
        (await waiting)()


async def test_who_gives_up_waiting_keeps_no_place():
    admission = Admission(places=1, longest=60)
    async with asyncio.timeout(5):
        leave = await admission.enter()
        waiting = asyncio.ensure_future(admission.enter())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        leave()
        (await admission.enter())()
