"""The agent as a real process with its workers; its way out leads to a bridge that stands for `financial`."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.errors import DeadlineExceeded, InvalidInput, ResourceExhausted
from mesh.rpc import ServerSettings, Service, error_from_rpc, open_server, open_target
from services.von_neumann.computing import open_workers

ROOT = Path(__file__).parents[4]
GOAL_KIB = 70 * 1024
STATES = agent_pb2.TaskState


class Financial(mcp_bridge_service_pb2_grpc.McpBridgeServiceServicer):
    """Answers npv and irr as the MCP server does, through its bridge."""

    async def CallTool(self, request, context):
        given = json.loads(request.arguments)
        flows = given["cash_flows"]
        if request.name == "npv":
            structured = {"npv": sum(flow / (1 + given["rate"]) ** year for year, flow in enumerate(flows))}
        elif flows[0] < 0:
            structured = {"irr": 0.1}
        else:
            text = mcp_pb2.Content(text=mcp_pb2.TextContent(text="no flow has the opposite sign"))
            result = mcp_pb2.ToolResult(is_error=True, content=[text])
            yield mcp_bridge_service_pb2.CallToolResponse(result=result)
            return
        result = mcp_pb2.ToolResult(structured_content=json.dumps(structured).encode())
        yield mcp_bridge_service_pb2.CallToolResponse(result=result)


@contextlib.asynccontextmanager
async def running_agent():
    """The agent's process and a stub of it."""
    directory = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    descriptor = mcp_bridge_service_pb2.DESCRIPTOR.services_by_name["McpBridgeService"]
    financial = Service(
        descriptor,
        lambda server: mcp_bridge_service_pb2_grpc.add_McpBridgeServiceServicer_to_server(Financial(), server),
    )
    env = os.environ | {
        "MESH_SERVICE": "von-neumann",
        "MESH_INSTANCE": "von-neumann-1",
        "MESH_LISTEN": f"unix:{directory}/app.sock",
        "MESH_OUTBOUND": f"unix:{directory}/out.sock",
        "MESH_TRUST_DOMAIN": "agentmesh.local",
    }
    async with open_server(ServerSettings("out", f"unix:{directory}/out.sock"), [financial]):
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.von_neumann", cwd=ROOT, env=env)
        try:
            async with asyncio.timeout(60), open_target(f"unix:{directory}/app.sock") as channel:
                while not (directory / "app.sock").exists():
                    await asyncio.sleep(0.02)
                yield process, agent_service_pb2_grpc.AgentServiceStub(channel)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            shutil.rmtree(directory, ignore_errors=True)


async def submit(stub, skill, value, **more):
    part = agent_pb2.Part(media_type="application/json", json=json.dumps(value).encode())
    request = agent_service_pb2.SubmitTaskRequest(skill_id=skill, input=[part], **more)
    return (await stub.SubmitTask(request)).task.id


async def follow(stub, task_id):
    return [
        response.update
        async for response in stub.WatchTask(agent_service_pb2.WatchTaskRequest(task_id=task_id), timeout=50)
    ]


def outcome(updates):
    last = updates[-1]
    outputs = [json.loads(part.json) for update in updates for part in update.output]
    return last.state, outputs[0] if outputs else None, last.error


async def run(stub, skill, value, **more):
    return outcome(await follow(stub, await submit(stub, skill, value, **more)))


async def test_every_skill_works_through_the_contract_and_the_agent_stays_small():
    async with running_agent() as (process, stub):
        card = (await stub.GetAgentCard(agent_service_pb2.GetAgentCardRequest())).card
        assert {skill.id for skill in card.skills} == {
            "symbolic-math",
            "linear-program",
            "matrix-game",
            "monte-carlo",
            "project-valuation",
        }
        assert all(json.loads(skill.input_schema)["type"] == "object" for skill in card.skills)
        program = {"objective": [1], "constraints": [{"coefficients": [1], "relation": ">=", "bound": 2}]}
        found = await asyncio.gather(
            run(stub, "symbolic-math", {"operation": "solve", "expression": "x^2 = 4"}),
            run(stub, "linear-program", program),
            run(stub, "matrix-game", {"row_payoffs": [[1, 2], [0, 3]]}),
        )
        assert [state for state, _, _ in found] == [STATES.TASK_STATE_COMPLETED] * 3
        assert found[0][1]["solutions"] == ["-2", "2"]
        assert found[1][1]["value"] == 2
        assert found[2][1]["value"] == 1

        updates = await follow(
            stub, await submit(stub, "project-valuation", {"rate": 0.1, "cash_flows": [-100, 60, 60]})
        )
        state, value, _ = outcome(updates)
        assert state == STATES.TASK_STATE_COMPLETED
        assert value["npv"] == pytest.approx(-100 + 60 / 1.1 + 60 / 1.21)
        assert value["irr"] == 0.1
        assert value["is_worthwhile"] is True
        assert [row["rate"] for row in value["sensitivity"]] == [0.05, 0.08, 0.1, 0.12, 0.15]
        assert any("asking financial" in update.status_message for update in updates)
        _, value, _ = await run(stub, "project-valuation", {"rate": 0.1, "cash_flows": [100]})
        assert value["irr"] is None
        assert "no flow has the opposite sign" in value["note"]

        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(status.partition("VmRSS:")[2].split()[0]) <= GOAL_KIB


async def test_a_long_simulation_reports_progress():
    simulation = {
        "expression": "x",
        "variables": {"x": {"distribution": "normal", "mean": 0, "stdev": 1}},
        "samples": 3_000_000,
    }
    async with running_agent() as (_, stub):
        updates = await follow(stub, await submit(stub, "monte-carlo", simulation))
    assert outcome(updates)[0] == STATES.TASK_STATE_COMPLETED
    progress = [update.progress for update in updates]
    assert progress == sorted(progress)
    assert any(0 < value < 1 for value in progress)


ENDLESS = {"operation": "evaluate", "expression": "factorial(factorial(15))"}
HUGE = {"operation": "expand", "expression": "(a + b + c + d + f + g)^80"}
SMALL = {"operation": "expand", "expression": "x*(x + 1)"}


async def test_a_cancelled_task_takes_its_worker_along_and_the_next_one_works():
    async with running_agent() as (process, stub):
        task_id = await submit(stub, "symbolic-math", ENDLESS)
        while not workers(process.pid):
            await asyncio.sleep(0.02)
        await stub.CancelTask(agent_service_pb2.CancelTaskRequest(task_id=task_id))
        state, _, _ = outcome(await follow(stub, task_id))
        assert state == STATES.TASK_STATE_CANCELED
        while workers(process.pid):
            await asyncio.sleep(0.02)
        state, _, _ = await run(stub, "symbolic-math", {"operation": "expand", "expression": "x*(x+1)"})
        assert state == STATES.TASK_STATE_COMPLETED


async def test_bad_input_and_what_takes_too_long_or_too_much_fail_with_cause_and_fix():
    async with running_agent() as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(stub, "symbolic-math", {"operation": "solve"})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "expression" in caught.value.details()

        attack = {"operation": "evaluate", "expression": "__import__('os')"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(stub, "symbolic-math", attack)
        refusal = error_from_rpc(caught.value)
        assert isinstance(refusal, InvalidInput)
        assert refusal.field == "input.expression"
        assert "There is no function" in refusal.summary

        state, _, error = await run(stub, "symbolic-math", ENDLESS, timeout=Duration(seconds=1))
        assert (state, error.reason) == (STATES.TASK_STATE_FAILED, DeadlineExceeded.default_reason)
        assert error.fix
        assert (await run(stub, "symbolic-math", SMALL))[1]["result"] == "x**2 + x"


def ask(pool, task, seconds=20):
    return pool.run("symbolic-math", task, lambda *_: None, seconds=seconds)


async def test_a_job_is_ended_at_its_limits_and_the_next_one_works():
    async with asyncio.timeout(30), open_workers(megabytes=300) as pool:
        with pytest.raises(DeadlineExceeded, match="took longer than 1 seconds") as late:
            await ask(pool, ENDLESS, seconds=1)
        assert late.value.fix
        with pytest.raises(ResourceExhausted, match="more memory than it may have") as full:
            await ask(pool, HUGE)
        assert full.value.fix
        assert not full.value.retryable
        assert not workers(os.getpid())
        assert (await ask(pool, SMALL))["result"] == "x**2 + x"
    assert not workers(os.getpid())


async def test_a_worker_serves_one_job_after_the_other_also_after_a_refusal():
    async with asyncio.timeout(30), open_workers() as pool:
        await ask(pool, SMALL)
        (pid,) = workers(os.getpid())
        with pytest.raises(InvalidInput, match="No value is given"):
            await ask(pool, {"operation": "evaluate", "expression": "x"})
        await ask(pool, SMALL)
        assert workers(os.getpid()) == [pid]
        # Two at once need two, of which one stays.
        await asyncio.gather(ask(pool, SMALL), ask(pool, SMALL))
        assert len(workers(os.getpid())) == 1


async def test_an_idle_worker_that_dies_is_reaped_and_replaced():
    async with asyncio.timeout(30), open_workers() as pool:
        await ask(pool, SMALL)
        (pid,) = workers(os.getpid())
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)
        assert (await ask(pool, SMALL))["result"] == "x**2 + x"


async def test_a_worker_without_work_is_ended():
    async with asyncio.timeout(30), open_workers(idle_seconds=0.1) as pool:
        await ask(pool, SMALL)
        while workers(os.getpid()):
            await asyncio.sleep(0.01)


async def test_a_worker_killed_by_the_system_is_no_deadline():
    async with asyncio.timeout(30), open_workers() as pool:
        asking = asyncio.create_task(ask(pool, ENDLESS))
        while not workers(os.getpid()):
            await asyncio.sleep(0.01)
        for pid in workers(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ResourceExhausted, match="SIGKILL"):
            await asking


async def test_sigterm_ends_the_agent_and_its_workers():
    async with running_agent() as (process, stub):
        await run(stub, "symbolic-math", SMALL)
        await submit(stub, "symbolic-math", SMALL)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert not workers(process.pid)


def workers(parent):
    """Worker processes that are children of `parent`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_worker = b"von_neumann.worker" in (entry / "cmdline").read_bytes()
            if is_worker and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found
