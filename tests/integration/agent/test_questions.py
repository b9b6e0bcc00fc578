"""Tasks that ask their submitter, against the contract's typed stub."""

import contextlib

import grpc
import pytest

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2
from mesh.errors import FailedPrecondition, InvalidInput, NotFound
from mesh.rpc import error_from_rpc


@contextlib.contextmanager
def refused(kind, reason):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error = error_from_rpc(caught.value)
    assert isinstance(error, kind), error
    assert error.reason == reason


def text(content, name=""):
    return agent_pb2.Part(text=content, name=name)


async def submit(stub, skill, *parts, **more):
    return (await stub.SubmitTask(agent_service_pb2.SubmitTaskRequest(skill_id=skill, input=parts, **more))).task


async def answer(stub, task_id, content, **more):
    return await submit(stub, "", text(content), task_id=task_id, **more)


async def wait_for(stub, task_id, *states):
    """The first update in one of the states."""
    call = stub.WatchTask(agent_service_pb2.WatchTaskRequest(task_id=task_id))
    async for response in call:
        if response.update.state in states:
            call.cancel()
            return response.update
    raise AssertionError("the stream has ended")


async def get(stub, task_id):
    return (await stub.GetTask(agent_service_pb2.GetTaskRequest(task_id=task_id, with_history=True))).task


async def test_a_task_asks_waits_and_goes_on_with_the_answer(running):
    async with running() as (_, stub, *_):
        task = await submit(stub, "ask", text("why"), message_id="m1")
        asked = await wait_for(stub, task.id, agent_pb2.TASK_STATE_INPUT_REQUIRED)
        assert asked.message.parts[0].text == "why?"
        first = await answer(stub, task.id, "because", message_id="m2")
        again = await answer(stub, task.id, "because", message_id="m2")
        assert first.id == again.id == task.id
        await wait_for(stub, task.id, agent_pb2.TASK_STATE_COMPLETED)
        task = await get(stub, task.id)
        assert task.output[0].text == "why because"
        assert [(it.id, it.role, it.parts[0].text) for it in task.history] == [
            ("m1", agent_pb2.ROLE_USER, "why"),
            (f"{task.id}-m2", agent_pb2.ROLE_AGENT, "why?"),
            ("m2", agent_pb2.ROLE_USER, "because"),
        ]


async def test_only_a_task_that_waits_takes_an_answer_and_only_from_its_group(running):
    async with running() as (probe, stub, *_):
        task = await submit(stub, "wait", text("x"))
        with refused(FailedPrecondition, "TASK_NOT_WAITING"):
            await answer(stub, task.id, "y")
        probe.release.set()
        await wait_for(stub, task.id, agent_pb2.TASK_STATE_COMPLETED)
        with refused(FailedPrecondition, "TASK_NOT_WAITING"):
            await answer(stub, task.id, "y")
        with refused(NotFound, "UNKNOWN_TASK"):
            await answer(stub, "nothing", "y")
        task = await submit(stub, "ask", text("login"))
        await wait_for(stub, task.id, agent_pb2.TASK_STATE_AUTH_REQUIRED)
        with refused(InvalidInput, "INVALID_INPUT"):
            await answer(stub, task.id, "y", context_id="another")


async def test_a_task_that_waits_takes_no_place_and_its_time_stands_still(running):
    async with running(max_concurrent_tasks=1, max_task_seconds=0.5) as (probe, stub, *_):
        waiting = await submit(stub, "ask", text("why"))
        await wait_for(stub, waiting.id, agent_pb2.TASK_STATE_INPUT_REQUIRED)
        late = await submit(stub, "wait", text("late"))
        ended = await wait_for(stub, late.id, agent_pb2.TASK_STATE_FAILED)
        assert ended.error.reason == "DEADLINE_EXCEEDED"
        assert (await get(stub, waiting.id)).state == agent_pb2.TASK_STATE_INPUT_REQUIRED
        await answer(stub, waiting.id, "now")
        await wait_for(stub, waiting.id, agent_pb2.TASK_STATE_COMPLETED)
        # Places are neither lost nor made by waiting.
        probe.release.set()
        for _ in range(3):
            task = await submit(stub, "wait", text("x"))
            await wait_for(stub, task.id, agent_pb2.TASK_STATE_COMPLETED)


async def test_a_task_that_nobody_answers_fails_and_one_that_waits_can_be_cancelled(running):
    async with running(max_wait_seconds=0.2) as (_, stub, *_):
        task = await submit(stub, "ask", text("why"))
        ended = await wait_for(stub, task.id, agent_pb2.TASK_STATE_FAILED)
        assert "Nobody has answered" in ended.error.summary
    async with running() as (_, stub, *_):
        task = await submit(stub, "ask", text("why"))
        await wait_for(stub, task.id, agent_pb2.TASK_STATE_INPUT_REQUIRED)
        canceled = await stub.CancelTask(agent_service_pb2.CancelTaskRequest(task_id=task.id))
        assert canceled.task.state == agent_pb2.TASK_STATE_CANCELED


async def test_a_task_that_waits_does_not_hold_up_the_end_of_the_agent(running):
    async with running(drain_seconds=60.0) as (_, stub, stop, serving):
        task = await submit(stub, "ask", text("why"))
        await wait_for(stub, task.id, agent_pb2.TASK_STATE_INPUT_REQUIRED)
        stop.set()
        await serving


async def test_a_skill_may_refuse_and_may_take_any_number_of_parts(running):
    async with running() as (_, stub, *_):
        task = await submit(stub, "refuse", text("x"))
        ended = await wait_for(stub, task.id, agent_pb2.TASK_STATE_REJECTED)
        assert ended.status_message == "Not today."
        task = await submit(stub, "all", text("a", "1"), agent_pb2.Part(url="https://x", name="2"))
        await wait_for(stub, task.id, agent_pb2.TASK_STATE_COMPLETED)
        assert (await get(stub, task.id)).output[0].json == b"2"


async def test_listing_leaves_out_outputs_and_the_tasks_of_others(running):
    async with running() as (_, stub, *_):
        task = await submit(stub, "all", text("a"))
        await wait_for(stub, task.id, agent_pb2.TASK_STATE_COMPLETED)
        listed = await stub.ListTasks(agent_service_pb2.ListTasksRequest(own=True, omit_output=True))
        assert [(it.id, len(it.output)) for it in listed.tasks] == [(task.id, 0)]
        envoy = (
            (
                "x-forwarded-client-cert",
                "By=spiffe://mesh.test/ns/default/svc/probe;URI=spiffe://mesh.test/ns/default/svc/b",
            ),
        )
        listed = await stub.ListTasks(agent_service_pb2.ListTasksRequest(own=True), metadata=envoy)
        assert list(listed.tasks) == []
