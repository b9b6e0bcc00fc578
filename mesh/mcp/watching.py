"""Watching a server's lists and resources, in the way of either protocol era.

Modern: one `subscriptions/listen` request for each watcher. Handshake: notifications go to the session, so one
`resources/subscribe` serves all watchers of a resource, and the last one to leave takes it back.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from mcp.client.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    Subscription,
    SubscriptionLost,
    ToolsListChanged,
    listen,
)
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND

from mesh.errors import DeadlineExceeded, MeshError, Unavailable, Unimplemented
from mesh.mcp.changes import Change, ListChanged, ResourceChanged
from mesh.mcp.connection import LOST, Connection
from mesh.mcp.faults import error_from_mcp
from mesh.mcp.negotiate import Era

_UNSUBSCRIBE_TIMEOUT = 5.0

NextChange = Callable[[], Awaitable[Change]]


@asynccontextmanager
async def open_watch(connection: Connection, uris: frozenset[str], *, timeout: float) -> AsyncIterator[NextChange]:
    """Start watching; gives a function that waits for the next change.

    Changes after this has been entered are not missed. That function raises Unavailable when the connection ends.
    Raises Unimplemented when the server cannot watch resources, DeadlineExceeded after `timeout` seconds.
    """
    watch = _watch_modern if connection.era is Era.MODERN else _watch_session
    async with watch(connection, uris, timeout) as next_change:
        yield next_change


@asynccontextmanager
async def _watch_session(connection: Connection, uris: frozenset[str], timeout: float) -> AsyncIterator[NextChange]:
    resources = connection.capabilities.get("resources")
    if uris and not (isinstance(resources, dict) and resources.get("subscribe")):
        raise _cannot_watch(connection, uris)
    async with AsyncExitStack() as stack:
        watcher = stack.enter_context(connection.feed.watcher(uris))
        for uri in sorted(uris):
            await stack.enter_async_context(_subscription(connection, uri, timeout))
        yield watcher.next


@asynccontextmanager
async def _subscription(connection: Connection, uri: str, timeout: float) -> AsyncIterator[None]:
    """Hold one reference to the session's subscription to a resource."""
    counts = connection.subscriptions
    async with connection.subscriptions_lock:
        if uri not in counts:
            await connection.request("resources/subscribe", {"uri": uri}, timeout=timeout)
        counts[uri] = counts.get(uri, 0) + 1
    try:
        yield
    finally:
        counts[uri] -= 1
        if counts[uri] == 0 and not connection.is_over:
            await _unsubscribe(connection, uri)


async def _unsubscribe(connection: Connection, uri: str) -> None:
    async with connection.subscriptions_lock:
        if connection.subscriptions.get(uri) != 0:
            return  # somebody has come meanwhile
        del connection.subscriptions[uri]
        try:
            await connection.request("resources/unsubscribe", {"uri": uri}, timeout=_UNSUBSCRIBE_TIMEOUT)
        except MeshError:
            return  # the server goes on telling; nobody listens


@asynccontextmanager
async def _watch_modern(connection: Connection, uris: frozenset[str], timeout: float) -> AsyncIterator[NextChange]:
    async with AsyncExitStack() as stack:
        listening = listen(
            connection.session,
            tools_list_changed=True,
            prompts_list_changed=True,
            resources_list_changed=True,
            resource_subscriptions=sorted(uris),
        )
        try:
            async with asyncio.timeout(timeout):
                subscription = await stack.enter_async_context(listening)
        except TimeoutError:
            raise DeadlineExceeded(
                f"MCP server {connection.server!r} has not acknowledged the watch within {timeout:.3g} s."
            ) from None
        except SubscriptionLost:
            raise Unavailable(f"MCP server {connection.server!r} ended the watch at once.", reason=LOST) from None
        except MCPError as err:
            if err.code != METHOD_NOT_FOUND:
                raise error_from_mcp(err, server=connection.server, method="subscriptions/listen") from err
            if uris:
                raise _cannot_watch(connection, uris) from err
            # A server without subscriptions has lists that do not change.
            yield stack.enter_context(connection.feed.watcher(uris)).next
            return
        if uris and not subscription.honored.resource_subscriptions:
            raise _cannot_watch(connection, uris)

        async def next_change() -> Change:
            return await _next_event(connection, subscription)

        yield next_change


async def _next_event(connection: Connection, subscription: Subscription) -> Change:
    try:
        event = await anext(subscription)
    except (SubscriptionLost, StopAsyncIteration):
        if connection.is_over:
            raise await connection.wait_over() from None
        raise Unavailable(f"MCP server {connection.server!r} has ended the watch.", reason=LOST) from None
    match event:
        case ToolsListChanged():
            return ListChanged("tools")
        case PromptsListChanged():
            return ListChanged("prompts")
        case ResourcesListChanged():
            return ListChanged("resources")
        case ResourceUpdated(uri=uri):
            return ResourceChanged(uri)


def _cannot_watch(connection: Connection, uris: frozenset[str]) -> Unimplemented:
    return Unimplemented(
        f"MCP server {connection.server!r} does not tell when a resource changes, so {min(uris)!r} cannot be watched.",
        reason="MCP_SUBSCRIBE_UNSUPPORTED",
        field="resource_uris",
        fix="Read the resource again from time to time, or watch without resource URIs.",
    )
