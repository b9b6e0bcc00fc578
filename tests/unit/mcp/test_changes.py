"""ChangeFeed: each watcher learns what concerns it, once."""

import asyncio

import pytest

from mesh.errors import Unavailable
from mesh.mcp.changes import MAX_PENDING, ChangeFeed, ListChanged, ResourceChanged


async def test_equal_changes_are_told_once() -> None:
    feed = ChangeFeed()
    with feed.watcher(frozenset({"a:1"})) as watcher:
        for _ in range(3):
            feed.publish(ListChanged("tools"))
            feed.publish(ResourceChanged("a:1"))
        assert await watcher.next() == ListChanged("tools")
        assert await watcher.next() == ResourceChanged("a:1")
        feed.publish(ListChanged("tools"))
        assert await watcher.next() == ListChanged("tools")


async def test_a_resource_is_told_to_those_who_watch_it_or_what_holds_it() -> None:
    feed = ChangeFeed()
    with feed.watcher(frozenset({"a:/x"})) as whole, feed.watcher(frozenset({"a:/x/y"})) as part:
        feed.publish(ResourceChanged("a:/x/y"))
        feed.publish(ResourceChanged("a:/xy"))
        feed.end(lambda: Unavailable("over"))
        assert await whole.next() == ResourceChanged("a:/x/y")
        assert await part.next() == ResourceChanged("a:/x/y")
        for watcher in (whole, part):
            with pytest.raises(Unavailable):
                await watcher.next()


async def test_a_watcher_that_is_far_behind_is_told_that_resources_changed() -> None:
    feed = ChangeFeed()
    uris = [f"a:/{n}" for n in range(MAX_PENDING + 1)]
    with feed.watcher(frozenset(uris)) as watcher:
        feed.publish(ListChanged("prompts"))
        for uri in uris:
            feed.publish(ResourceChanged(uri))
        assert await watcher.next() == ListChanged("prompts")
        assert await watcher.next() == ListChanged("resources")


async def test_waiting_for_a_change_can_be_cancelled() -> None:
    feed = ChangeFeed()
    with feed.watcher(frozenset()) as watcher:
        waiting = asyncio.create_task(watcher.next())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        feed.publish(ListChanged("tools"))
        assert await watcher.next() == ListChanged("tools")
