"""Skills of agents, called as tools: a task is given, watched, and its output is the result."""

import json
import os
from collections.abc import Mapping
from typing import Any

from agentmesh.agent.v1 import agent_pb2
from agentmesh.agent.v1 import agent_service_pb2 as pb
from mesh.errors import MeshError
from mesh.mcp.frames import dump_json
from services.gateway.federation.shelf import Offer
from services.gateway.tools import Governor, ToolCall
from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.gate import Asked, Gate
from services.gateway.web.a2a.states import has_ended, is_waiting
from services.gateway.web.mcp.backend import Host, HostRequest
from services.gateway.web.mcp.wire import Outcome

_CONTEXT = "agentmesh/contextId"
_TASK = "agentmesh/taskId"
_GOOD = agent_pb2.TASK_STATE_COMPLETED
_ANSWER = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


class AgentTools:
    """Calls skills on behalf of hosts."""

    def __init__(self, gate: Gate, agents: Agents, governor: Governor) -> None:
        self._gate = gate
        self._agents = agents
        self._governor = governor

    async def call(self, agent: str, skill: str, request: HostRequest, host: Host, offer: Offer | None) -> Outcome:
        """The result of a skill. Cancelling cancels the task. Raises MeshError when the task cannot be given.

        `offer` is what is known of the skill.
        """
        asked = Asked(agent, request.caller)
        self._gate.check_skill(asked, skill, is_mcp=True)
        given, principal = request.params.get("arguments"), request.caller.principal
        arguments = given if isinstance(given, dict) else {}
        facts = offer.facts if offer is not None else None
        call = ToolCall(agent, skill, arguments, principal, request.caller.correlation_id, facts)
        self._governor.check_pin(call)
        rules = self._governor.rules_for(agent, skill, principal)
        if rules is None:
            return await self._call(asked, skill, arguments, request, host)

        async def make(arguments: Mapping[str, Any]) -> tuple[bytes | None, bytes | None]:
            outcome = await self._call(asked, skill, arguments, request, host)
            return outcome.result, outcome.error

        result, error = await self._governor.call(call, rules, make)
        return Outcome(result=result, error=error)

    async def _call(
        self, asked: Asked, skill: str, arguments: Mapping[str, Any], request: HostRequest, host: Host
    ) -> Outcome:
        context = request.meta.get(_CONTEXT)
        task = await self._agents.submit(
            asked,
            pb.SubmitTaskRequest(
                message_id=os.urandom(12).hex(),
                skill_id=skill,
                context_id=context if isinstance(context, str) else "",
                input=[_part(arguments)],
            ),
        )
        is_over = False
        try:
            state = await self._watch(asked, task, request, host)
            is_over = has_ended(state)
            return _result(await self._agents.get(asked, task.id, with_history=False))
        finally:
            if not is_over:
                await self._cancel(asked, task.id)

    async def _watch(self, asked: Asked, task: agent_pb2.Task, request: HostRequest, host: Host) -> int:
        """Follow a task to its end, or to a question that nobody can answer; gives its last state."""
        token = request.meta.get("progressToken")
        after = 0
        while True:
            state = task.state
            async for update in self._agents.watch(asked, task.id, after):
                after, state = update.sequence, update.state
                if token is not None and not update.output and not has_ended(state):
                    facts = {"progressToken": token, "progress": update.progress, "total": 1.0}
                    facts |= {"message": update.status_message} if update.status_message else {}
                    await host.tell("notifications/progress", dump_json(facts))
                if is_waiting(state):
                    break
            if not is_waiting(state) or not request.can_be_asked:
                return state
            question = update.status_message or "The agent needs an answer."
            params = {"mode": "form", "message": question, "requestedSchema": _ANSWER}
            answer = json.loads((await host.ask("elicitation/create", dump_json(params))).result or b"{}")
            content = answer.get("content")
            if answer.get("action") != "accept" or not isinstance(content, dict):
                return state
            part = agent_pb2.Part(media_type="text/plain", text=str(content.get("answer", "")))
            again = pb.SubmitTaskRequest(message_id=os.urandom(12).hex(), task_id=task.id, input=[part])
            await self._agents.submit(asked, again)

    async def _cancel(self, asked: Asked, task_id: str) -> None:
        try:
            await self._agents.cancel(asked, task_id)
        except MeshError:
            return  # it has ended meanwhile, or the agent is away: then it ends by its own limit


def _part(arguments: Mapping[str, Any]) -> agent_pb2.Part:
    if set(arguments) == {"text"} and isinstance(arguments["text"], str):
        return agent_pb2.Part(media_type="text/plain", text=arguments["text"])
    return agent_pb2.Part(media_type="application/json", json=dump_json(arguments))


def _result(task: agent_pb2.Task) -> Outcome:
    content: list[dict[str, Any]] = []
    structured: Any = None
    for part in task.output:
        match part.WhichOneof("content"):
            case "text":
                content.append({"type": "text", "text": part.text})
            case "json":
                content.append({"type": "text", "text": part.json.decode()})
                value = json.loads(part.json)
                structured = value if structured is None and isinstance(value, dict) else structured
            case "url":
                link = {"type": "resource_link", "uri": part.url, "name": part.filename or part.name or part.url}
                content.append(link)
            case "raw":
                content.append({"type": "text", "text": f"{len(part.raw)} bytes of {part.media_type or 'data'}"})
    is_good = task.state == _GOOD
    if not is_good:
        why = task.error.summary or task.status_message or agent_pb2.TaskState.Name(task.state)
        content.insert(0, {"type": "text", "text": f"The task did not complete: {why}"})
    result: dict[str, Any] = {
        "content": content,
        "isError": not is_good,
        "resultType": "complete",
        "_meta": {_TASK: task.id, _CONTEXT: task.context_id},
    }
    if structured is not None:
        result["structuredContent"] = structured
    return Outcome(result=dump_json(result))
