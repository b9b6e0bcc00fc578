"""What an agent calls through its sidecar, against servers that misbehave in every way."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

import grpc
import pytest

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.agent import open_mesh_client
from mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    Unavailable,
)
from mesh.rpc import ServerSettings, Service, open_server


class Bridge(mcp_bridge_service_pb2_grpc.McpBridgeServiceServicer):
    """Answers by the name of the tool."""

    def __init__(self):
        self.canceled = asyncio.Event()
        self.started = asyncio.Event()

    async def CallTool(self, request, context):
        self.started.set()
        match request.name:
            case "slow":
                try:
                    await asyncio.Event().wait()
                finally:
                    self.canceled.set()
            case "progressing":
                for done in (1, 2):
                    progress = mcp_pb2.Progress(progress=done, total=2, message=f"step {done}")
                    yield mcp_bridge_service_pb2.CallToolResponse(progress=progress)
                yield mcp_bridge_service_pb2.CallToolResponse(progress=mcp_pb2.Progress(progress=3))
                result = mcp_pb2.ToolResult(structured_content=request.arguments, content=[text("one"), text("two")])
                yield mcp_bridge_service_pb2.CallToolResponse(result=result)
            case "failing":
                result = mcp_pb2.ToolResult(is_error=True, content=[text("the rate is missing")])
                yield mcp_bridge_service_pb2.CallToolResponse(result=result)
            case "silent":
                return
            case "broken":
                result = mcp_pb2.ToolResult(structured_content=b"{")
                yield mcp_bridge_service_pb2.CallToolResponse(result=result)
            case _:
                raise NotFound(f"There is no tool {request.name!r}.", fix="List the tools.")

    async def ListTools(self, request, context):
        number = int(request.page_token or "0")
        tool = mcp_pb2.Tool(name=f"tool-{number}", input_schema=b'{"type": "object"}')
        return mcp_bridge_service_pb2.ListToolsResponse(
            tools=[tool], next_page_token=str(number + 1) if number < 2 else ""
        )


def text(content):
    return mcp_pb2.Content(text=mcp_pb2.TextContent(text=content))


class FlakyAgent(agent_service_pb2_grpc.AgentServiceServicer):
    """Has one task with five updates; cuts each stream after `pieces` of them, and may stand for two instances."""

    def __init__(self, *, pieces=1, strangers=0, refusals=0):
        self.pieces = pieces
        self.strangers = strangers
        self.refusals = refusals
        self.asked_after = []
        self.message_ids = []
        self.canceled = []

    async def SubmitTask(self, request, context):
        self.message_ids.append(request.message_id)
        if len(self.message_ids) <= self.refusals:
            raise Unavailable("Not yet.")
        return agent_service_pb2.SubmitTaskResponse(task=agent_pb2.Task(id="i.1"))

    async def WatchTask(self, request, context):
        if self.strangers:
            self.strangers -= 1
            raise NotFound("Not mine.", reason="TASK_OF_OTHER_INSTANCE")
        self.asked_after.append(request.after_sequence)
        for number in range(request.after_sequence + 1, 6)[: self.pieces]:
            state = agent_pb2.TASK_STATE_COMPLETED if number == 5 else agent_pb2.TASK_STATE_WORKING
            output = [agent_pb2.Part(name=str(number), text=f"part {number}")]
            update = agent_pb2.TaskUpdate(sequence=number, state=state, progress=number / 5, output=output)
            yield agent_service_pb2.WatchTaskResponse(update=update)
            if number == 5:
                return
        if len(self.asked_after) % 2:
            raise Unavailable("The stream breaks.")

    async def CancelTask(self, request, context):
        self.canceled.append(request.task_id)
        return agent_service_pb2.CancelTaskResponse()


@pytest.fixture
def reaching():
    """Serve servicers in place of the sidecar; yields a mesh client."""

    @contextlib.asynccontextmanager
    async def reaching(*, bridge=None, agent=None):
        directory = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
        services = []
        if bridge is not None:
            services.append(
                Service(
                    mcp_bridge_service_pb2.DESCRIPTOR.services_by_name["McpBridgeService"],
                    lambda server: mcp_bridge_service_pb2_grpc.add_McpBridgeServiceServicer_to_server(bridge, server),
                )
            )
        if agent is not None:
            services.append(
                Service(
                    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"],
                    lambda server: agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agent, server),
                )
            )
        target = f"unix:{directory}/out.sock"
        try:
            async with asyncio.timeout(30), open_server(ServerSettings("out", target, drain_grace=0.2), services):
                async with open_mesh_client(outbound=target) as mesh:
                    yield mesh
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    return reaching


async def test_a_tool_gives_progress_then_its_result(reaching):
    heard = []
    async with reaching(bridge=Bridge()) as mesh:
        result = await mesh.use_tool(
            "tools", "progressing", {"a": [1, None]}, on_progress=lambda *news: heard.append(news)
        )
    assert heard == [(1.0, 2.0, "step 1"), (2.0, 2.0, "step 2"), (3.0, None, "")]
    assert result.structured == {"a": [1, None]}
    assert result.text == "one\ntwo"


@pytest.mark.parametrize(
    ("tool", "kind", "words"),
    [
        ("failing", FailedPrecondition, "The tool failing of tools failed: the rate is missing"),
        ("silent", Internal, "without a result"),
        ("broken", Internal, "is not JSON"),
        ("nothing", NotFound, "no tool 'nothing'"),
    ],
)
async def test_what_goes_wrong_with_a_tool_names_the_service_and_the_cause(reaching, tool, kind, words):
    async with reaching(bridge=Bridge()) as mesh:
        with pytest.raises(kind, match=words) as caught:
            await mesh.use_tool("tools", tool, {})
    assert caught.value.service in {"tools", "out"}


async def test_arguments_without_a_json_form_are_refused_before_the_call(reaching):
    bridge = Bridge()
    async with reaching(bridge=bridge) as mesh:
        with pytest.raises(InvalidInput):
            await mesh.use_tool("tools", "progressing", {"a": object()})
    assert not bridge.started.is_set()


async def test_a_tool_that_is_late_or_given_up_is_cancelled(reaching):
    bridge = Bridge()
    async with reaching(bridge=bridge) as mesh:
        with pytest.raises(DeadlineExceeded):
            await mesh.use_tool("tools", "slow", {}, timeout=0.2)
        await bridge.canceled.wait()
        bridge.canceled.clear()
        bridge.started.clear()
        using = asyncio.create_task(mesh.use_tool("tools", "slow", {}))
        await bridge.started.wait()
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        await bridge.canceled.wait()


async def test_tools_are_listed_over_all_pages(reaching):
    async with reaching(bridge=Bridge()) as mesh:
        tools = await mesh.list_tools("tools")
    assert [tool.name for tool in tools] == ["tool-0", "tool-1", "tool-2"]
    assert tools[0].input_schema == {"type": "object"}
    assert tools[0].output_schema is None


async def test_channels_are_shared_and_closed_with_the_client(reaching):
    async with reaching(bridge=Bridge()) as mesh:
        first, second = await asyncio.gather(mesh.channel("tools"), mesh.channel("tools"))
        assert first is second
        assert await mesh.channel("other") is not first
        with pytest.raises(InvalidInput):
            await mesh.channel("Not A Name")
    assert first.get_state() is grpc.ChannelConnectivity.SHUTDOWN
    with pytest.raises(Unavailable):
        await mesh.channel("tools")


@pytest.mark.parametrize("pieces", [1, 2, 5])
async def test_a_task_is_followed_over_broken_streams_without_gap_or_repetition(reaching, pieces):
    heard, agent = [], FlakyAgent(pieces=pieces)
    async with reaching(agent=agent) as mesh:
        result = await mesh.call_agent("flaky", "any", {}, on_update=heard.append)
    assert [update.sequence for update in heard] == [1, 2, 3, 4, 5]
    assert result.value == tuple(f"part {number}" for number in range(1, 6))
    assert agent.asked_after == list(range(0, 5, pieces))


async def test_a_task_of_another_instance_is_asked_for_until_that_one_answers(reaching):
    agent = FlakyAgent(pieces=5, strangers=3)
    async with reaching(agent=agent) as mesh:
        assert (await mesh.call_agent("flaky", "any", {})).task_id == "i.1"


async def test_a_submission_is_repeated_under_the_same_message_id(reaching):
    agent = FlakyAgent(pieces=5, refusals=2)
    async with reaching(agent=agent) as mesh:
        await mesh.call_agent("flaky", "any", {})
    assert len(agent.message_ids) == 3
    assert len(set(agent.message_ids)) == 1


async def test_a_stream_that_never_moves_is_given_up_in_the_end(reaching):
    agent = FlakyAgent(pieces=0)
    async with reaching(agent=agent) as mesh:
        with pytest.raises(MeshError):
            await mesh.call_agent("flaky", "any", {})
    assert set(agent.asked_after) == {0}
    assert agent.canceled == ["i.1"]


async def test_an_agent_that_is_late_is_told_to_stop(reaching):
    agent = FlakyAgent(strangers=10_000)
    async with reaching(agent=agent) as mesh:
        with pytest.raises(DeadlineExceeded):
            await mesh.call_agent("flaky", "any", {}, timeout=0.2)
    assert agent.canceled == ["i.1"]
