"""Leader election and the key-value store on a real Consul."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest_asyncio

from mesh.discovery import (
    ConsulAgentSettings,
    ConsulEndpoint,
    KvView,
    Leadership,
    open_consul_agent,
    open_kv,
    open_leadership,
    watch_keys,
)
from mesh.discovery.leadership import LEADER_KEY

BOUND = 40.0


@pytest_asyncio.fixture
async def endpoint(new_settings: Callable[..., ConsulAgentSettings]) -> AsyncIterator[ConsulEndpoint]:
    settings = new_settings()
    async with open_consul_agent(settings):
        yield ConsulEndpoint(settings.http)


async def until_leads(*candidates: Leadership) -> Leadership:
    async with asyncio.timeout(BOUND):
        while True:
            waits = [asyncio.ensure_future(each.wait_for_change()) for each in candidates]
            try:
                for each in candidates:
                    if each.is_leader:
                        return each
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=1.0)
            finally:
                for wait in waits:
                    wait.cancel()


async def test_one_of_two_leads_and_the_other_follows_when_it_leaves(endpoint: ConsulEndpoint) -> None:
    async with open_leadership(endpoint, "second") as second, AsyncExitStack() as stack:
        assert await until_leads(second) is second
        first = await stack.enter_async_context(open_leadership(endpoint, "first"))
        async with open_kv(endpoint) as kv:
            entry = await kv.get(LEADER_KEY)
        assert entry is not None and entry.value == b"second" and not first.is_leader
        await stack.aclose()
    async with open_leadership(endpoint, "third") as third:
        assert await until_leads(third) is third


async def test_a_leader_whose_session_was_ended_stops_leading_and_contends_again(endpoint: ConsulEndpoint) -> None:
    async with open_leadership(endpoint, "one") as one, open_kv(endpoint) as kv:
        await until_leads(one)
        entry = await kv.get(LEADER_KEY)
        assert entry is not None
        lost = asyncio.ensure_future(one.wait_for_change())
        await kv.destroy_session(entry.session)
        async with asyncio.timeout(BOUND):
            await lost
        assert await until_leads(one) is one


async def test_a_watch_on_keys_gives_every_change_and_merges_bursts(endpoint: ConsulEndpoint) -> None:
    async def until(views: AsyncIterator[KvView], keys: set[str]) -> KvView:
        async with asyncio.timeout(BOUND):
            async for view in views:
                if set(view.entries) == keys:
                    return view
        raise AssertionError("The watch ended.")

    async with open_kv(endpoint) as kv:
        views = watch_keys(lambda: open_kv(endpoint), "agentmesh/test/")
        assert (await until(views, set())).is_available
        for number in range(20):
            assert await kv.put(f"agentmesh/test/{number}", b"\x00\xff")
        view = await until(views, {f"agentmesh/test/{number}" for number in range(20)})
        assert view.entries["agentmesh/test/0"].value == b"\x00\xff"
        await kv.delete("agentmesh/test/0")
        await until(views, {f"agentmesh/test/{number}" for number in range(1, 20)})
        await views.aclose()  # type: ignore[attr-defined]


async def test_a_key_is_written_only_over_the_index_that_was_seen(endpoint: ConsulEndpoint) -> None:
    async with open_kv(endpoint) as kv:
        assert await kv.put("agentmesh/cas", b"1", expected=0)
        assert not await kv.put("agentmesh/cas", b"2", expected=0)
        entry = await kv.get("agentmesh/cas")
        assert entry is not None
        assert await kv.put("agentmesh/cas", b"3", expected=entry.index)
        assert not await kv.put("agentmesh/cas", b"4", expected=entry.index)
