"""An agent served on a unix socket, against its contract's typed stub."""

import asyncio
import contextlib
import json

import grpc
import pytest

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2
from mesh.agent import open_mesh_client
from mesh.errors import (
    Canceled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    OutOfRange,
    ResourceExhausted,
)
from mesh.rpc import error_from_rpc


def json_part(value):
    return agent_pb2.Part(media_type="application/json", json=json.dumps(value).encode())


async def submit(stub, skill, value, **more):
    part = agent_pb2.Part(media_type="text/plain", text=value) if isinstance(value, str) else json_part(value)
    return (await stub.SubmitTask(agent_service_pb2.SubmitTaskRequest(skill_id=skill, input=[part], **more))).task


def watch(stub, task_id, after=0):
    return stub.WatchTask(agent_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=after))


async def updates(stub, task_id, after=0):
    return [response.update async for response in watch(stub, task_id, after)]


async def read_all(stream):
    found = []
    while (response := await stream.read()) is not grpc.aio.EOF:
        found.append(response.update)
    return found


@contextlib.contextmanager
def refused(kind):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield caught
    assert isinstance(error_from_rpc(caught.value), kind), caught.value


async def test_the_card_tells_skills_schemas_and_limits(running):
    async with running(max_concurrent_tasks=3) as (_, stub, _, _):
        card = (await stub.GetAgentCard(agent_service_pb2.GetAgentCardRequest())).card
    assert (card.name, card.version, card.limits.max_concurrent_tasks) == ("probe", "1.0.0", 3)
    skills = {skill.id: skill for skill in card.skills}
    assert json.loads(skills["count"].input_schema)["properties"]["count"]["maximum"] == 1000
    assert list(skills["wait"].input_modes) == ["text/plain"]


async def test_a_task_is_followed_to_its_end_and_again_from_any_number(running):
    async with running() as (_, stub, _, _):
        task = await submit(stub, "count", {"count": 5})
        everything = await updates(stub, task.id)
        assert [update.sequence for update in everything] == list(range(1, len(everything) + 1))
        assert everything[-1].state == agent_pb2.TASK_STATE_COMPLETED
        assert json.loads(everything[-1].output[0].json) == [0, 1, 2, 3, 4]
        for after in range(len(everything)):
            assert await updates(stub, task.id, after) == everything[after:]
        with refused(OutOfRange):
            await updates(stub, task.id, len(everything) + 1)
        found = (await stub.GetTask(agent_service_pb2.GetTaskRequest(task_id=task.id))).task
        assert (found.state, found.progress) == (agent_pb2.TASK_STATE_COMPLETED, 1.0)


async def test_a_watch_that_breaks_is_taken_up_without_gap_or_repetition(running):
    async with running() as (probe, stub, _, _):
        task = await submit(stub, "wait", "it")
        stream = watch(stub, task.id)
        first = [(await stream.read()).update for _ in range(2)]
        stream.cancel()
        probe.release.set()
        rest = await updates(stub, task.id, first[-1].sequence)
        assert [update.sequence for update in (*first, *rest)] == list(range(1, len(first) + len(rest) + 1))
        assert rest[-1].output[0].text == "it done"


async def test_the_same_message_id_gives_the_same_task(running):
    async with running() as (probe, stub, _, _):
        tasks = [await submit(stub, "wait", "x", message_id="m-1") for _ in range(3)]
        assert len({task.id for task in tasks}) == 1
        other = await submit(stub, "wait", "x", message_id="m-2")
        assert other.id != tasks[0].id
        probe.release.set()
        await updates(stub, tasks[0].id)
        await updates(stub, other.id)
        assert probe.started == 2


async def test_a_cancelled_task_stops_its_handler(running):
    async with running() as (probe, stub, _, _):
        task = await submit(stub, "wait", "x")
        while not probe.started:
            await asyncio.sleep(0.005)
        canceled = (await stub.CancelTask(agent_service_pb2.CancelTaskRequest(task_id=task.id))).task
        assert canceled.state == agent_pb2.TASK_STATE_CANCELED
        assert probe.canceled == 1
        assert (await updates(stub, task.id))[-1].state == agent_pb2.TASK_STATE_CANCELED
        again = (await stub.CancelTask(agent_service_pb2.CancelTaskRequest(task_id=task.id))).task
        assert again.state == agent_pb2.TASK_STATE_CANCELED


async def test_bad_input_is_refused_before_anything_runs(running):
    async with running(max_input_bytes=1000) as (probe, stub, _, _):
        with refused(InvalidInput) as caught:
            await submit(stub, "count", {"count": -1})
        assert error_from_rpc(caught.value).field == "input.count"
        with refused(InvalidInput):
            await submit(stub, "count", {"count": "many"})
        with refused(InvalidInput):
            await submit(stub, "wait", {"not": "text"})
        with refused(InvalidInput):
            await submit(stub, "wait", "x" * 1001)
        with refused(NotFound) as caught:
            await submit(stub, "nothing", "x")
        assert "count" in error_from_rpc(caught.value).fix
        with refused(NotFound):
            await updates(stub, "no-such-task")
        assert probe.started == 0


async def test_what_a_handler_raises_is_the_tasks_error_and_what_is_unexpected_stays_inside(running):
    async with running() as (_, stub, _, _):
        last = (await updates(stub, (await submit(stub, "fail", "x")).id))[-1]
        assert (last.state, last.error.field, last.error.fix) == (
            agent_pb2.TASK_STATE_FAILED,
            "input",
            "Do something else.",
        )
        last = (await updates(stub, (await submit(stub, "fail", "unexpected")).id))[-1]
        assert last.state == agent_pb2.TASK_STATE_FAILED
        assert "password" not in str(last)


async def test_tasks_beyond_the_places_wait_and_beyond_the_queue_are_refused(running):
    async with running(max_concurrent_tasks=2, max_queued_tasks=1) as (probe, stub, _, _):
        tasks = [await submit(stub, "wait", str(number)) for number in range(3)]
        with refused(ResourceExhausted):
            await submit(stub, "wait", "too many")
        while probe.started < 2:
            await asyncio.sleep(0.005)
        assert probe.started == 2
        probe.release.set()
        for task in tasks:
            assert (await updates(stub, task.id))[-1].state == agent_pb2.TASK_STATE_COMPLETED


async def test_a_task_that_is_late_fails_with_its_deadline(running):
    async with running(max_task_seconds=0.1) as (probe, stub, _, _):
        last = (await updates(stub, (await submit(stub, "wait", "x")).id))[-1]
        assert last.state == agent_pb2.TASK_STATE_FAILED
        assert last.error.reason == DeadlineExceeded.default_reason
        assert probe.canceled == 1


async def test_lists_are_paged_and_foreign_tokens_refused(running):
    async with running() as (_, stub, _, _):
        made = [(await submit(stub, "count", {"count": 0}, context_id="mine")).id for _ in range(5)]
        await submit(stub, "count", {"count": 0}, context_id="other")
        request = agent_service_pb2.ListTasksRequest(page_size=2, context_id="mine")
        seen = []
        while True:
            page = await stub.ListTasks(request)
            assert len(page.tasks) <= 2
            seen += [task.id for task in page.tasks]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert seen == made[::-1]
        with refused(InvalidInput):
            await stub.ListTasks(agent_service_pb2.ListTasksRequest(page_token="forged"))
        with refused(InvalidInput):
            await stub.ListTasks(agent_service_pb2.ListTasksRequest(page_size=100_000))


async def test_old_tasks_are_forgotten(running):
    async with running(kept_tasks=2) as (_, stub, _, _):
        tasks = [await submit(stub, "count", {"count": 0}) for _ in range(1)]
        await updates(stub, tasks[0].id)
        for _ in range(2):
            task = await submit(stub, "count", {"count": 0})
            await updates(stub, task.id)
        with refused(NotFound):
            await updates(stub, tasks[0].id)


async def test_a_drain_lets_running_tasks_finish_and_ends_every_stream(running):
    async with running() as (probe, stub, stop, serving):
        task = await submit(stub, "wait", "x")
        stream = watch(stub, task.id)
        await stream.read()
        watching = asyncio.create_task(read_all(stream))
        while not probe.started:
            await asyncio.sleep(0.005)
        stop.set()
        with contextlib.suppress(grpc.aio.AioRpcError):
            while True:  # until no new call is taken: it drains now
                await stub.GetAgentCard(agent_service_pb2.GetAgentCardRequest())
        assert not serving.done()
        probe.release.set()
        assert (await watching)[-1].state == agent_pb2.TASK_STATE_COMPLETED
        await serving


async def test_a_task_that_outlives_the_drain_fails_and_says_why(running):
    async with running(drain_seconds=0.1) as (probe, stub, stop, serving):
        task = await submit(stub, "wait", "x")
        stream = watch(stub, task.id)
        await stream.read()
        watching = asyncio.create_task(read_all(stream))
        while not probe.started:
            await asyncio.sleep(0.005)
        stop.set()
        last = (await watching)[-1]
        assert last.state == agent_pb2.TASK_STATE_FAILED
        assert "shutting down" in last.error.summary
        await serving


async def test_watchers_beyond_the_limit_are_refused_and_places_come_back(running):
    async with running(max_watchers=1) as (probe, stub, _, _):
        task = await submit(stub, "wait", "x")
        first = watch(stub, task.id)
        await first.read()
        with refused(ResourceExhausted):
            await updates(stub, task.id)
        probe.release.set()
        await read_all(first)
        assert (await updates(stub, task.id))[-1].state == agent_pb2.TASK_STATE_COMPLETED


async def test_an_output_that_is_too_large_fails_the_task(running):
    async with running(max_output_bytes=300) as (_, stub, _, _):
        last = (await updates(stub, (await submit(stub, "count", {"count": 100})).id))[-1]
        assert (last.state, last.error.reason) == (agent_pb2.TASK_STATE_FAILED, "OUTPUT_TOO_LARGE")


async def test_a_mesh_client_runs_a_task_elsewhere_and_hears_of_its_updates(running, short_dir):
    async with running() as (probe, _, _, _), open_mesh_client(outbound=f"unix:{short_dir}/app.sock") as mesh:
        heard = []
        result = await mesh.call_agent("probe", "count", {"count": 3}, on_update=heard.append)
        assert result.value == [0, 1, 2]
        assert [update.sequence for update in heard] == list(range(1, len(heard) + 1))
        with pytest.raises(FailedPrecondition, match="It cannot be"):
            await mesh.call_agent("probe", "fail", "x")
        with pytest.raises(InvalidInput):
            await mesh.call_agent("probe", "count", {"count": -1})
        with pytest.raises(DeadlineExceeded):
            await mesh.call_agent("probe", "wait", "x", timeout=0.2)
        waiting = asyncio.create_task(mesh.call_agent("probe", "wait", "x"))
        while probe.started < 2:
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, Canceled)):
            await waiting
        while probe.canceled < 2:
            await asyncio.sleep(0.005)


async def test_all_tasks_are_followed_from_the_call_on_without_their_output(running):
    async with running() as (_, stub, stop, serving):
        before = await submit(stub, "count", {"count": 0})
        await updates(stub, before.id)
        stream = stub.WatchTasks(agent_service_pb2.WatchTasksRequest())
        first = await stream.read()
        assert first.ready.instance == "probe-1"
        tasks = [await submit(stub, "count", {"count": 3}), await submit(stub, "fail", "x")]
        for task in tasks:
            await updates(stub, task.id)
        stop.set()
        heard = []
        while (response := await stream.read()) is not grpc.aio.EOF:
            heard.append(response.task)
        await serving
    assert {task.id for task in heard} == {task.id for task in tasks}
    for task in tasks:
        mine = [it for it in heard if it.id == task.id]
        assert [it.sequence for it in mine] == list(range(1, len(mine) + 1))
        assert not any(it.output for it in mine)
    (counted,) = (it for it in heard if it.id == tasks[0].id and it.state == agent_pb2.TASK_STATE_COMPLETED)
    assert counted.skill_id == "count"
    assert heard[-1].error.fix or heard[-1].state == agent_pb2.TASK_STATE_COMPLETED
