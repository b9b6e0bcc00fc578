"""`meshctl call` against an agent and a tool that are not at their best."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc
from mesh.agent import Part
from mesh.config import MeshSettings
from mesh.errors import Canceled, DeadlineExceeded, FailedPrecondition, Internal, MeshError, NotFound
from mesh.model import Address
from mesh.rpc import error_to_status
from services.meshctl.call import _with_near_names, call_tool, run_skill


class Agent(agent_service_pb2_grpc.AgentServiceServicer):
    """An agent of two instances behind one address: every other watch meets the one that has not made the task."""

    def __init__(self, *updates: agent_pb2.TaskUpdate) -> None:
        self._updates = updates
        self.watches: list[int] = []

    async def SubmitTask(self, request, context):
        return agent_service_pb2.SubmitTaskResponse(task=agent_pb2.Task(id="t-1"))

    async def WatchTask(self, request, context):
        self.watches.append(request.after_sequence)
        if len(self.watches) % 2:
            await refuse(context, NotFound("Ask the other one.", reason="TASK_OF_OTHER_INSTANCE"))
        for update in self._updates:
            if update.sequence > request.after_sequence:
                await context.write(agent_service_pb2.WatchTaskResponse(update=update))
                if update.state == agent_pb2.TASK_STATE_WORKING:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream breaks after each step")

    async def CancelTask(self, request, context):
        return agent_service_pb2.CancelTaskResponse()


async def refuse(context, error: MeshError) -> None:
    status = error_to_status(error)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(grpc.StatusCode.NOT_FOUND, status.message)


@asynccontextmanager
async def served(add: Callable[[grpc.aio.Server], None], tmp_path) -> AsyncIterator[MeshSettings]:
    server = grpc.aio.server()
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield replace(MeshSettings.from_environment({}), state_dir=tmp_path, gateway_bind=Address("127.0.0.1", port))
    finally:
        await server.stop(None)


def serve_agent(agent: Agent, tmp_path):
    return served(lambda server: agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agent, server), tmp_path)


def update(sequence: int, state: "agent_pb2.TaskState", *output: agent_pb2.Part, **more) -> agent_pb2.TaskUpdate:
    return agent_pb2.TaskUpdate(sequence=sequence, state=state, output=output, **more)


async def test_a_skill_of_several_instances_is_followed_to_its_end_over_broken_streams(tmp_path, capsys) -> None:
    agent = Agent(
        update(1, agent_pb2.TASK_STATE_WORKING, agent_pb2.Part(text="one"), progress=0.5, status_message="half"),
        update(2, agent_pb2.TASK_STATE_COMPLETED, agent_pb2.Part(json=b'{"a": 1}')),
    )
    async with serve_agent(agent, tmp_path) as settings:
        result = await run_skill(settings, "a", "skill", Part.of({}), timeout=10)
    assert result == {"task": "t-1", "output": ["one", {"a": 1}], "is_error": False}
    assert agent.watches == [0, 0, 1, 1]
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", " 50% half\n")


async def test_a_cancelled_task_is_an_error(tmp_path) -> None:
    async with serve_agent(Agent(update(1, agent_pb2.TASK_STATE_CANCELED)), tmp_path) as settings:
        with pytest.raises(Canceled):
            await run_skill(settings, "a", "skill", Part.of("x"), timeout=10)


class Bridge(mcp_bridge_service_pb2_grpc.McpBridgeServiceServicer):
    def __init__(self, *, is_late: bool) -> None:
        self._is_late = is_late

    async def CallTool(self, request, context):
        if self._is_late:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        await context.write(mcp_bridge_service_pb2.CallToolResponse())


@pytest.mark.parametrize(
    ("is_late", "error", "words"), [(True, DeadlineExceeded, "--timeout"), (False, Internal, "without a result")]
)
async def test_a_tool_that_is_late_or_says_nothing_is_named(tmp_path, is_late, error, words) -> None:
    def add(server: grpc.aio.Server) -> None:
        mcp_bridge_service_pb2_grpc.add_McpBridgeServiceServicer_to_server(Bridge(is_late=is_late), server)

    async with served(add, tmp_path) as settings:
        with pytest.raises(error, match=words):
            await call_tool(settings, "tools", "slow", {}, timeout=5)


async def test_without_a_mesh_to_ask_for_names_the_first_error_stays(tmp_path) -> None:
    settings = replace(MeshSettings.from_environment({}), state_dir=tmp_path)

    async def fail(error: MeshError) -> None:
        raise error

    with pytest.raises(NotFound, match="no such tool"):
        await _with_near_names(settings, "a", "b", fail(NotFound("no such tool")))
    with pytest.raises(FailedPrecondition, match="other"):
        await _with_near_names(settings, "a", "b", fail(FailedPrecondition("other")))
