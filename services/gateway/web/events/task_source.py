"""Makes events of the tasks of agents, while somebody wants them.

    agent ──WatchTasks, one stream for each healthy instance──> AgentFollower ──> EventHub

A stream goes to whichever instance Envoy chooses. One that reaches an instance which another one watches already is
given up and tried again after a while, so that in the end all are watched.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from mesh.rpc import open_channel
from mesh.runtime import Backoff
from mesh.telemetry import get_logger
from services.gateway.knowledge import Knowledge
from services.gateway.web.events.event import TASK_CHANGED, TASK_MISSED
from services.gateway.web.events.hub import EventHub

_MOST_AGENTS = 256
_MOST_LANES = 16
"""Streams to one agent."""
_LINGER = 30.0
"""Seconds that an agent is still followed after the last reader has left, who may come back."""
_FIRST_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0

_log = get_logger(__name__)

OpenChannel = Callable[[str], AbstractAsyncContextManager[grpc.aio.Channel]]


class TaskSource:
    """Follows the agents that somebody wants to hear of. `linger` is in seconds."""

    def __init__(
        self, knowledge: Knowledge, hub: EventHub, *, connect: OpenChannel = open_channel, linger: float = _LINGER
    ) -> None:
        self._knowledge = knowledge
        self._hub = hub
        self._connect = connect
        self._linger = linger
        self._look = asyncio.Event()
        self._followed: dict[str, tuple[AgentFollower, asyncio.Task[None]]] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}

    @property
    def followed(self) -> frozenset[str]:
        """The agents that are followed now."""
        return frozenset(self._followed)

    async def run(self) -> None:
        """Tell the hub what becomes of tasks, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_at_mesh())
                group.create_task(self._look_at_readers())
                while True:
                    self._look.clear()
                    self._adjust(group)
                    await self._look.wait()
        finally:
            for timer in self._leaving.values():
                timer.cancel()

    def _adjust(self, group: asyncio.TaskGroup) -> None:
        agents = {
            it.name: sum(instance.healthy for instance in it.instances)
            for it in self._knowledge.mesh.services
            if it.kind == "agent"
        }
        for name in self._followed.keys() - agents.keys():
            self._leave(name)
        for name, healthy in agents.items():
            if self._hub.wants(TASK_CHANGED, name):
                if name in self._leaving:
                    self._leaving.pop(name).cancel()
                if name not in self._followed and healthy and len(self._followed) < _MOST_AGENTS:
                    follower = AgentFollower(name, self._hub, self._connect)
                    self._followed[name] = follower, group.create_task(follower.run())
            elif name in self._followed and name not in self._leaving:
                loop = asyncio.get_running_loop()
                self._leaving[name] = loop.call_later(self._linger, self._leave, name)
            if name in self._followed:
                self._followed[name][0].set_instances(healthy)

    def _leave(self, name: str) -> None:
        if name in self._leaving:
            self._leaving.pop(name).cancel()
        _, task = self._followed.pop(name)
        task.cancel()
        # For those who come back later than that.
        tell_missed(self._hub, name)

    async def _look_at_mesh(self) -> None:
        async for _ in self._knowledge.watch():
            self._look.set()

    async def _look_at_readers(self) -> None:
        while True:
            await self._hub.wait_wanted()
            self._look.set()


class AgentFollower:
    """Follows the instances of one agent."""

    def __init__(self, agent: str, hub: EventHub, connect: OpenChannel) -> None:
        self._agent = agent
        self._hub = hub
        self._connect = connect
        self._instances = 1
        self._watched: set[str] = set()
        self._changed = asyncio.Event()

    def set_instances(self, count: int) -> None:
        """How many there are to follow; where there is none, one stream still waits for the next."""
        wanted = min(max(count, 1), _MOST_LANES)
        if wanted != self._instances:
            self._instances = wanted
            self._changed.set()

    async def run(self) -> None:
        """Tell the hub of their tasks, for ever."""
        lanes: list[asyncio.Task[None]] = []
        async with self._connect(self._agent) as channel, asyncio.TaskGroup() as group:
            stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
            while True:
                self._changed.clear()
                # Streams that are too many end with their instances.
                lanes = [lane for lane in lanes if not lane.done()]
                lanes += [group.create_task(self._lane(stub)) for _ in range(self._instances - len(lanes))]
                await self._changed.wait()

    async def _lane(self, stub: Any) -> None:
        """Watch one instance after the other; ends when there are enough without it."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while len(self._watched) < self._instances:
            call = stub.WatchTasks(agent_service_pb2.WatchTasksRequest())
            try:
                await self._watch(call, backoff)
            except grpc.aio.AioRpcError as err:
                _log.debug("tasks_not_watched", agent=self._agent, code=err.code().name)
            except TimeoutError:
                _log.debug("tasks_not_watched", agent=self._agent, code="NO_ANSWER")
            finally:
                call.cancel()
            await asyncio.sleep(_FIRST_PAUSE + backoff.next())
        self._changed.set()

    async def _watch(self, call: Any, backoff: Backoff) -> None:
        async with asyncio.timeout(_FIRST_SECONDS):
            first = await call.read()
        if first is grpc.aio.EOF:
            return
        instance = first.ready.instance
        if instance in self._watched:
            return
        self._watched.add(instance)
        backoff.reset()
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                self._hub.publish(TASK_CHANGED, self._agent, task_facts(response.task))
        except grpc.aio.AioRpcError:
            tell_missed(self._hub, self._agent)
            raise
        finally:
            self._watched.discard(instance)


def tell_missed(hub: EventHub, agent: str) -> None:
    """Say that changes may be missing here."""
    hub.publish(TASK_MISSED, agent, {"detail": "Changes of tasks may be missing: read them with ListTasks."})


def task_facts(task: agent_pb2.Task) -> Mapping[str, Any]:
    """What an event says of a task: neither what went in nor what came out."""
    return {
        "task": task.id,
        "skill": task.skill_id,
        "state": agent_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower(),
        "progress": task.progress,
        "message": task.status_message,
        "sequence": task.sequence,
    }
