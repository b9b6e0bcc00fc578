"""Where events come from: what the gateway hears of the mesh, and the tasks of agents while somebody listens."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.control.v1 import control_pb2
from mesh.rpc import open_channel
from mesh.telemetry import get_logger
from services.gateway.knowledge import Knowledge, MeshView
from services.gateway.web.events.hub import EventHub

_POLL = 1.0
"""Seconds between two looks at the tasks of an agent."""
_TIMEOUT = 2.0
_PAGE = 100

_log = get_logger(__name__)


async def follow_mesh(knowledge: Knowledge, hub: EventHub) -> None:
    """Tell the hub what changes, for ever."""
    known: MeshView | None = None
    async for _ in knowledge.watch():
        view = knowledge.mesh
        if view is known:
            continue
        # What is there at the start is no news.
        if known is not None and known.document_version:
            tell_changes(hub, known, view)
        known = view


def tell_changes(hub: EventHub, before: MeshView, after: MeshView) -> None:
    """Publish what differs between two moments of the mesh."""
    old = {service.name: service for service in before.services}
    new = {service.name: service for service in after.services}
    for name in sorted(new.keys() - old.keys()):
        hub.publish("service.added", name, facts_of(new[name]))
    for name in sorted(old.keys() - new.keys()):
        hub.publish("service.removed", name, {})
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            hub.publish("service.changed", name, facts_of(new[name]))
    if (before.revision, before.document_version) != (after.revision, after.document_version):
        hub.publish("config.changed", "", {"revision": after.revision, "version": after.document_version})


def facts_of(service: control_pb2.Service) -> dict[str, Any]:
    """What an event says of a service."""
    return {
        "kind": service.kind,
        "instances": len(service.instances),
        "healthy": sum(instance.healthy for instance in service.instances),
    }


async def follow_tasks(knowledge: Knowledge, hub: EventHub) -> None:
    """Tell the hub what becomes of the tasks of all agents, for ever; nobody is asked while nobody listens."""
    known: dict[str, dict[str, int]] = {}
    while True:
        await asyncio.sleep(_POLL)
        if not hub.has_readers("task.changed"):
            known.clear()
            continue
        agents = [it.name for it in knowledge.mesh.services if it.kind == "agent" and _is_healthy(it)]
        found = await asyncio.gather(*(_read_tasks(name) for name in agents))
        for name, tasks in zip(agents, found, strict=True):
            if tasks is None:
                continue
            before = known.get(name)
            for task in reversed(tasks):
                if before is not None and before.get(task.id) != task.sequence:
                    hub.publish("task.changed", name, task_facts(task))
            known[name] = {task.id: task.sequence for task in tasks}
        for name in known.keys() - set(agents):
            del known[name]


async def _read_tasks(agent: str) -> list[agent_pb2.Task] | None:
    """The newest tasks of an agent; None when it does not answer."""
    try:
        async with open_channel(agent) as channel:
            stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
            request = agent_service_pb2.ListTasksRequest(page_size=_PAGE)
            return list((await stub.ListTasks(request, timeout=_TIMEOUT)).tasks)
    except grpc.aio.AioRpcError as err:
        _log.debug("tasks_not_read", agent=agent, code=err.code().name)
        return None


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


def _is_healthy(service: control_pb2.Service) -> bool:
    return any(instance.healthy for instance in service.instances)
