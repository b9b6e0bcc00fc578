"""Events of the tasks of agents that are served on sockets."""

import asyncio
import contextlib
import itertools

import pytest

from agentmesh.agent.v1 import agent_service_pb2 as pb
from agentmesh.agent.v1 import agent_service_pb2_grpc
from agentmesh.control.v1 import control_pb2
from agentmesh.gateway.v1 import gateway_service_pb2
from mesh.agent import Agent, AgentLimits, AgentSettings, TaskContext, serve
from mesh.rpc import open_target
from mesh.runtime import Stop
from services.gateway.knowledge import Knowledge
from services.gateway.web.events import Event, EventHub, TaskSource, Wanted

TASKS = Wanted(frozenset({"task.changed"}))


class Sight:
    owner = "me"

    def sees(self, event):
        return True

    def sees_service(self, service):
        return True

    def check(self):
        return None


@contextlib.asynccontextmanager
async def running_instance(folder, number):
    """One instance of an agent; gives its stub and what ends it."""
    limits = AgentLimits(report_interval=0.0, drain_seconds=5.0)
    agent = Agent(name="worker", version="1.0.0", description="For tests.", limits=limits)

    @agent.skill(id="echo", description="Says it again.")
    async def echo(text: str, task: TaskContext) -> str:
        return text

    stop, listen = Stop(), f"unix:{folder}/{number}.sock"
    settings = AgentSettings(listen=listen, service="worker", instance=f"worker-{number}", outbound=listen)
    serving = asyncio.create_task(serve(agent, stop, settings))
    try:
        async with open_target(listen) as channel:
            await channel.channel_ready()
            yield agent_service_pb2_grpc.AgentServiceStub(channel), stop
    finally:
        stop.set()
        await serving


class AnyInstance:
    """A channel whose calls go to one instance after the other, as an Envoy would have it."""

    def __init__(self, channels):
        self._channels = channels

    def __getattr__(self, name):
        def multi_callable(*words, **more):
            callables = itertools.cycle([getattr(channel, name)(*words, **more) for channel in self._channels])

            def call(*args, **kwargs):
                return next(callables)(*args, **kwargs)

            return call

        return multi_callable


@pytest.fixture
def following(short_dir):
    """Follow agents with so many instances; gives the hub, the source and what sets how many instances there are."""

    @contextlib.asynccontextmanager
    async def following(count, linger=0.0):
        @contextlib.asynccontextmanager
        async def connect(service):
            assert service == "worker"
            async with contextlib.AsyncExitStack() as stack:
                targets = [f"unix:{short_dir}/{number}.sock" for number in range(count)]
                # Each twice: a second stream then reaches an instance that is watched already.
                channels = [await stack.enter_async_context(open_target(it)) for it in targets for _ in range(2)]
                yield AnyInstance(channels)

        def set_instances(healthy, kind="agent"):
            instances = [control_pb2.Instance(id=f"worker-{number}", healthy=True) for number in range(healthy)]
            worker = control_pb2.Service(name="worker", kind=kind, instances=instances)
            knowledge.set_mesh(gateway_service_pb2.WatchMeshResponse(services=[worker]))

        knowledge, hub = Knowledge(), EventHub(epoch="e")
        source = TaskSource(knowledge, hub, connect=connect, linger=linger)
        set_instances(count)
        async with asyncio.timeout(20):
            running = asyncio.create_task(source.run())
            try:
                yield hub, source, set_instances
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    return following


async def submit(stub):
    part = {"text": "secret", "media_type": "text/plain"}
    return (await stub.SubmitTask(pb.SubmitTaskRequest(skill_id="echo", input=[part]))).task.id


async def heard_end_of_some(stub, reader, found=None):
    """Submit tasks until the end of one is heard."""
    found = [] if found is None else found
    while True:
        task = await submit(stub)
        with contextlib.suppress(TimeoutError):
            while True:
                item = await reader.next(0.1)
                assert item is not None
                if isinstance(item, Event):
                    found.append(item)
                    if item.data.get("task") == task and item.data["state"] == "completed":
                        return found


async def until(holds):
    while not holds():
        await asyncio.sleep(0.005)


async def test_tasks_of_every_instance_become_events_without_what_goes_in_or_comes_out(following, short_dir):
    async with running_instance(short_dir, 0) as (first, _), running_instance(short_dir, 1) as (second, _):
        async with following(2) as (hub, source, _):
            assert source.followed == frozenset()
            with hub.subscribe(TASKS, Sight()) as reader:
                events = await heard_end_of_some(first, reader)
                events += await heard_end_of_some(second, reader)
    assert {event.subject for event in events} == {"worker"}
    assert {event.type for event in events} == {"task.changed"}
    assert {event.data["task"].partition(".")[0] for event in events} == {"worker-0", "worker-1"}
    for task in {event.data["task"] for event in events}:
        sequences = [event.data["sequence"] for event in events if event.data["task"] == task]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    assert "secret" not in str(events)


async def test_nobody_is_followed_for_readers_who_do_not_want_it_and_not_for_long_after_they_have_left(
    following, short_dir
):
    async with running_instance(short_dir, 0) as (stub, _), following(1) as (hub, source, _):
        with hub.subscribe(Wanted(frozenset({"service.added"})), Sight()):
            with hub.subscribe(TASKS, Sight()) as reader:
                await heard_end_of_some(stub, reader)
                assert source.followed == {"worker"}
                last = hub.last_id
            await until(lambda: not source.followed)
        # Who comes back is told that something may be missing.
        with hub.subscribe(TASKS, Sight(), after=last) as reader:
            _, missed = await reader.next(), await reader.next()
            assert missed.type == "task.missed"
            await heard_end_of_some(stub, reader)


async def test_an_agent_that_leaves_is_not_followed_any_more(following, short_dir):
    async with running_instance(short_dir, 0) as (stub, _), following(1, linger=60.0) as (hub, source, set_instances):
        with hub.subscribe(TASKS, Sight()) as reader:
            await heard_end_of_some(stub, reader)
            set_instances(1, kind="service")
            await until(lambda: not source.followed)
            set_instances(1)
            await heard_end_of_some(stub, reader)


async def test_an_instance_that_starts_again_is_followed_again(following, short_dir):
    async with following(1) as (hub, _, _):
        with hub.subscribe(TASKS, Sight()) as reader:
            for _ in range(2):
                async with running_instance(short_dir, 0) as (stub, _):
                    events = await heard_end_of_some(stub, reader)
            # It ended in order, after its last change.
            assert "task.missed" not in {event.type for event in events}
