"""The typed facade in front of a modern (2026-07-28) server, over stdio and over streamable HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from agentmesh.mcp.v1 import mcp_pb2


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["stdio", "http"])
async def bridge(
    request: Any, open_bridge: Any, server_command: Any, http_server: Callable[..., str]
) -> AsyncIterator[Any]:
    if request.param == "stdio":
        opened = open_bridge(server_command("high_level_server"))
    else:
        opened = open_bridge(url=http_server())
    async with opened as bridge:
        yield bridge


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_server_tells_who_it_is_in_the_newest_protocol(bridge: Any) -> None:
    server = (await bridge.stub.GetServer(pb.GetServerRequest())).server
    assert (server.name, server.title, server.version) == ("fixture-high", "Fixture", "1.2.3")
    assert server.protocol_version == "2026-07-28"
    assert server.instructions == "Use with care."
    assert "tools" in json.loads(server.capabilities)


async def test_tools_carry_schemas_and_hints(bridge: Any) -> None:
    response = await bridge.stub.ListTools(pb.ListToolsRequest())
    tools = {tool.name: tool for tool in response.tools}
    assert response.next_page_token == ""
    add = tools["add"]
    assert (add.title, add.description) == ("Add", "Add two whole numbers.")
    assert json.loads(add.input_schema)["properties"]["a"]["type"] == "integer"
    assert json.loads(add.output_schema)["properties"]["total"]["type"] == "integer"
    assert add.annotations.read_only_hint and add.annotations.idempotent_hint
    assert not add.annotations.HasField("destructive_hint")


async def test_structured_result_keeps_big_integers(bridge: Any) -> None:
    outcome = await bridge.call("add", b'{"a": 1208925819614629174706176, "b": 1}')
    assert not outcome.result.is_error
    assert json.loads(outcome.result.structured_content) == {"total": 2**80 + 1}


async def test_arguments_keep_integers_and_fractions_apart(bridge: Any) -> None:
    outcome = await bridge.call("echo", '{"value": [1, 1.0, "☃", null, true, {"deep": []}]}'.encode())
    text = outcome.result.structured_content.decode()
    assert "[1,1.0," in text and "☃" in text


async def test_a_failing_tool_is_a_result(bridge: Any) -> None:
    outcome = await bridge.call("fail")
    assert outcome.result.is_error
    assert "this tool always fails" in outcome.result.content[0].text.text


async def test_a_picture_arrives_decoded(bridge: Any) -> None:
    outcome = await bridge.call("picture")
    assert outcome.result.content[0].image.data == b"\x89PNG\x00\xff"
    assert outcome.result.content[0].image.mime_type == "image/png"


async def test_progress_and_logs_come_in_order_before_the_result(bridge: Any) -> None:
    outcome = await bridge.call("count", b'{"to": 3}', log_level=mcp_pb2.LOG_LEVEL_INFO)
    progress = [event.progress for event in outcome.before if event.WhichOneof("event") == "progress"]
    logs = [event.log for event in outcome.before if event.WhichOneof("event") == "log"]
    assert [(p.progress, p.total, p.message) for p in progress] == [
        (1, 3, "step 1"),
        (2, 3, "step 2"),
        (3, 3, "step 3"),
    ]
    assert [json.loads(log.data) for log in logs] == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert {(log.logger, log.level) for log in logs} == {("counter", mcp_pb2.LOG_LEVEL_INFO)}
    assert outcome.result.content[0].text.text == "counted to 3"


async def test_no_logs_come_unless_asked_for(bridge: Any) -> None:
    outcome = await bridge.call("count", b'{"to": 2}')
    assert {event.WhichOneof("event") for event in outcome.before} == {"progress"}


async def test_calls_run_side_by_side(bridge: Any) -> None:
    waiting = [asyncio.create_task(bridge.text("wait", json.dumps({"name": f"p{n}"}).encode())) for n in range(20)]
    for n in reversed(range(20)):
        await bridge.text("release", json.dumps({"name": f"p{n}"}).encode())
    assert await asyncio.gather(*waiting) == [f"released p{n}" for n in range(20)]


async def test_cancelling_the_call_cancels_the_tool(
    bridge: Any, eventually: Callable[..., Awaitable[Any]], request: Any
) -> None:
    call = bridge.stub.CallTool(pb.CallToolRequest(name="wait", arguments=b'{"name": "forgotten"}'), timeout=20)
    first = await call.read()
    assert first.progress.message == "waiting"
    call.cancel()

    async def is_cancelled() -> bool:
        outcome = await bridge.call("cancelled")
        return "forgotten" in outcome.result.structured_content.decode()

    await eventually(is_cancelled)


async def test_the_deadline_of_the_call_cancels_the_tool(
    bridge: Any, eventually: Callable[..., Awaitable[Any]]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await bridge.call("wait", b'{"name": "late"}', timeout=0.5)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def is_cancelled() -> bool:
        outcome = await bridge.call("cancelled")
        return "late" in outcome.result.structured_content.decode()

    await eventually(is_cancelled)


async def test_an_unknown_tool_is_not_found(bridge: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await bridge.call("no-such-tool")
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    assert "no-such-tool" in (failed.value.details() or "")


@pytest.mark.parametrize("arguments", [b"[1]", b"{", b'{"a": NaN}', b"\xff", b"1"])
async def test_arguments_that_are_no_json_object_are_refused(bridge: Any, arguments: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await bridge.call("add", arguments)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_resources_are_listed_and_read(bridge: Any) -> None:
    listed = await bridge.stub.ListResources(pb.ListResourcesRequest())
    assert {resource.uri for resource in listed.resources} == {"test://text", "test://binary"}
    text = await bridge.stub.ReadResource(pb.ReadResourceRequest(uri="test://text"))
    assert (text.contents[0].text, text.contents[0].mime_type) == ("hello ☃", "text/plain")
    binary = await bridge.stub.ReadResource(pb.ReadResourceRequest(uri="test://binary"))
    assert binary.contents[0].blob == b"\x00\xff\x01"


async def test_an_unknown_resource_is_not_found(bridge: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await bridge.stub.ReadResource(pb.ReadResourceRequest(uri="test://nowhere"))
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_templates_are_listed_and_filled_in(bridge: Any) -> None:
    listed = await bridge.stub.ListResourceTemplates(pb.ListResourceTemplatesRequest())
    assert [template.uri_template for template in listed.resource_templates] == ["test://items/{item}"]
    read = await bridge.stub.ReadResource(pb.ReadResourceRequest(uri="test://items/7"))
    assert read.contents[0].text == "item 7"


async def test_prompts_are_listed_and_filled_in(bridge: Any) -> None:
    listed = await bridge.stub.ListPrompts(pb.ListPromptsRequest())
    (prompt,) = listed.prompts
    assert (prompt.name, prompt.title) == ("greet", "Greeting")
    assert [(a.name, a.required) for a in prompt.arguments] == [("who", True), ("tone", False)]
    got = await bridge.stub.GetPrompt(pb.GetPromptRequest(name="greet", arguments={"who": "Ada"}))
    assert got.messages[0].role == "user"
    assert got.messages[0].content.text.text == "Say a warm hello to Ada."


async def test_an_unknown_prompt_is_not_found(bridge: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await bridge.stub.GetPrompt(pb.GetPromptRequest(name="nope"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_completion_uses_what_is_settled_already(bridge: Any) -> None:
    request = pb.CompleteRequest(
        prompt="greet", argument_name="who", argument_value="an", context_arguments={"prefix": "dear "}
    )
    completed = await bridge.stub.Complete(request)
    assert list(completed.values) == ["dear anna", "dear anton"]
    assert completed.total == 2 and not completed.has_more


async def test_watch_tells_changes_after_ready(bridge: Any) -> None:
    watch = bridge.stub.Watch(pb.WatchRequest(resource_uris=["test://text"]), timeout=20)
    assert (await watch.read()).WhichOneof("event") == "ready"
    await bridge.text("change", b'{"uri": "test://text"}')
    events = [await watch.read() for _ in range(4)]
    assert {event.WhichOneof("event") for event in events} == {
        "tool_list_changed",
        "prompt_list_changed",
        "resource_list_changed",
        "resource_updated",
    }
    updated = next(event for event in events if event.WhichOneof("event") == "resource_updated")
    assert updated.resource_updated.uri == "test://text"
    watch.cancel()
