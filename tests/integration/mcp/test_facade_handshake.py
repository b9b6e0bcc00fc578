"""The typed facade in front of servers of the handshake era: the SDK's low-level API, and streamable HTTP sessions."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from agentmesh.mcp.v1 import mcp_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bridge(open_bridge: Any, server_command: Any) -> AsyncIterator[Any]:
    async with open_bridge(server_command("low_level_server")) as bridge:
        yield bridge


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["stdio", "http"])
async def high_level(
    request: Any, open_bridge: Any, server_command: Any, http_server: Callable[..., str]
) -> AsyncIterator[Any]:
    if request.param == "stdio":
        opened = open_bridge(server_command("high_level_server", "--legacy"))
    else:
        opened = open_bridge(url=http_server("--legacy"))
    async with opened as bridge:
        yield bridge


async def test_server_is_spoken_to_in_the_newest_handshake_version(bridge: Any, high_level: Any) -> None:
    for one in (bridge, high_level):
        server = (await one.stub.GetServer(pb.GetServerRequest())).server
        assert server.protocol_version == "2025-11-25"
    assert server.name == "fixture-high"


async def test_progress_reaches_the_caller(high_level: Any) -> None:
    outcome = await high_level.call("count", b'{"to": 3}')
    assert [event.progress.progress for event in outcome.before] == [1, 2, 3]


async def test_cancelling_sends_a_notification(high_level: Any, eventually: Callable[..., Awaitable[Any]]) -> None:
    call = high_level.stub.CallTool(pb.CallToolRequest(name="wait", arguments=b'{"name": "gone"}'), timeout=20)
    await call.read()
    call.cancel()

    async def is_cancelled() -> bool:
        return "gone" in (await high_level.call("cancelled")).result.structured_content.decode()

    await eventually(is_cancelled)


async def test_pages_follow_the_cursor(bridge: Any) -> None:
    names: list[str] = []
    token = ""
    pages = 0
    while True:
        page = await bridge.stub.ListTools(pb.ListToolsRequest(page_token=token))
        names += [tool.name for tool in page.tools]
        pages += 1
        token = page.next_page_token
        if not token:
            break
    assert pages == 3
    assert names == ["alpha", "beta", "gamma", "log", "touch", "subscribed", "big", "strange"]


async def test_schemas_keep_big_integers(bridge: Any) -> None:
    page = await bridge.stub.ListTools(pb.ListToolsRequest())
    assert json.loads(page.tools[0].input_schema)["properties"]["n"]["maximum"] == 2**70


async def test_structured_content_keeps_big_integers_both_ways(bridge: Any) -> None:
    outcome = await bridge.call("big", b'{"x": 100000000000000000000000001}')
    assert json.loads(outcome.result.structured_content) == {"n": 2**80, "args": {"x": 10**26 + 1}}


async def test_log_level_is_asked_for_once_and_filtered_for_each_call(bridge: Any) -> None:
    errors = await bridge.call("log", log_level=mcp_pb2.LOG_LEVEL_ERROR)
    assert [event.log.level for event in errors.before] == [mcp_pb2.LOG_LEVEL_ERROR]
    everything = await bridge.call("log", log_level=mcp_pb2.LOG_LEVEL_DEBUG)
    assert len(everything.before) == 3
    again = await bridge.call("log", log_level=mcp_pb2.LOG_LEVEL_INFO)
    assert len(again.before) == 2
    # The level of the server is never made heavier again, since another caller may want the light ones.
    assert json.loads(again.before[0].log.data) == {"level": "debug"}
    assert not (await bridge.call("log")).before


async def test_a_resource_is_subscribed_once_for_all_watchers(
    bridge: Any, eventually: Callable[..., Awaitable[Any]]
) -> None:
    async def subscribed() -> list[str]:
        found: list[str] = json.loads((await bridge.call("subscribed")).result.structured_content)["uris"]
        return found

    watches = [bridge.stub.Watch(pb.WatchRequest(resource_uris=["test://a"]), timeout=20) for _ in range(2)]
    for watch in watches:
        assert (await watch.read()).WhichOneof("event") == "ready"
    assert await subscribed() == ["+test://a"]
    await bridge.text("touch", b'{"uri": "test://a/part"}')
    for watch in watches:
        events = {(await watch.read()).WhichOneof("event") for _ in range(4)}
        assert events == {"tool_list_changed", "prompt_list_changed", "resource_list_changed", "resource_updated"}
    watches[0].cancel()
    watches[1].cancel()

    async def is_unsubscribed() -> bool:
        return await subscribed() == ["+test://a", "-test://a"]

    await eventually(is_unsubscribed)


async def test_a_watcher_is_not_told_of_other_resources(bridge: Any) -> None:
    watch = bridge.stub.Watch(pb.WatchRequest(), timeout=20)
    await watch.read()
    await bridge.text("touch", b'{"uri": "test://a"}')
    await bridge.text("touch", b'{"uri": "test://a"}')
    events = [(await watch.read()).WhichOneof("event") for _ in range(3)]
    assert "resource_updated" not in events
    watch.cancel()


async def test_watching_a_resource_needs_a_server_that_can(high_level: Any) -> None:
    watch = high_level.stub.Watch(pb.WatchRequest(resource_uris=["test://text"]), timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await watch.read()
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "test://text" in (failed.value.details() or "")


async def test_what_the_server_does_not_offer_is_unimplemented(bridge: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await bridge.stub.ListPrompts(pb.ListPromptsRequest())
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_refused_arguments_are_told_from_an_unknown_tool(bridge: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await bridge.call("alpha", b'{"m": 1}')
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "n is missing" in (refused.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await bridge.call("omega")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_resource_size_is_kept(bridge: Any) -> None:
    listed = await bridge.stub.ListResources(pb.ListResourcesRequest())
    assert listed.resources[0].size == 7
