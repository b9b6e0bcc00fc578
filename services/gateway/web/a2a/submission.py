"""A message becomes a task, or the answer that a task waits for; once, however often it comes."""

import contextlib

from a2a.types import a2a_pb2 as a2a

from agentmesh.agent.v1 import agent_pb2
from agentmesh.agent.v1 import agent_service_pb2 as pb
from mesh.a2a import parts_to_mesh, struct_to_json
from mesh.access import Target
from mesh.errors import InvalidInput, NotFound
from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.choice import choose_skill
from services.gateway.web.a2a.gate import SERVICE, Asked, Gate
from services.gateway.web.a2a.push import PushOperations
from services.gateway.web.a2a.sent import Sent
from services.gateway.web.mcp.policy import Policy


class Submission:
    """Raises MeshError when the caller may not, when a limit is used up, or when the message is none for the agent."""

    def __init__(self, gate: Gate, agents: Agents, policy: Policy, sent: Sent, push: PushOperations) -> None:
        self._gate = gate
        self._agents = agents
        self._policy = policy
        self._sent = sent
        self._push = push

    async def submit(self, asked: Asked, params: a2a.SendMessageRequest) -> agent_pb2.Task:
        """The task that a message becomes, has become before, or answers."""
        message = params.message
        request = pb.SubmitTaskRequest(
            message_id=message.message_id,
            context_id=message.context_id,
            task_id=message.task_id,
            input=parts_to_mesh(message.parts),
            metadata=struct_to_json(message.metadata),
            extensions=message.extensions,
            reference_task_ids=message.reference_task_ids,
        )
        has_push = params.configuration.HasField("task_push_notification_config")
        if has_push:
            await self._push.check(params.configuration.task_push_notification_config)
        async with self._sent.turn(str(asked.caller.principal), asked.agent, message.message_id) as turn:
            task = await self._sent_before(asked, await turn.task_id())
            if task is None:
                await self._choose(asked, params, request)
                self._gate.inspect(asked, request)
                task = await self._agents.submit(asked, request)
                await turn.note(task.id)
        if has_push:
            await self._push.create_with(asked, task, params)
        return task

    async def _sent_before(self, asked: Asked, task_id: str) -> agent_pb2.Task | None:
        """What a message has become that came before; None when it is not known any more."""
        if task_id:
            with contextlib.suppress(NotFound):
                return await self._agents.get(asked, task_id, with_history=False)
        return None

    async def _choose(self, asked: Asked, params: a2a.SendMessageRequest, request: pb.SubmitTaskRequest) -> None:
        """Find out which skill it is for, and whether the caller may call that."""
        message = params.message
        if message.task_id:
            task = await self._agents.get(asked, message.task_id, with_history=False)
            self._gate.check_skill(asked, task.skill_id)
            if message.context_id not in ("", task.context_id):
                raise InvalidInput("The task belongs to another context.", field="message.context_id")
        else:
            request.skill_id = await choose_skill(self._agents, self._gate, asked, params)
            self._gate.check_skill(asked, request.skill_id)
        # To the guard all of A2A looks alike: what is limited by agent and method is counted here.
        await self._policy.count(asked.caller, Target(asked.agent, f"{SERVICE}/SubmitTask", skill=request.skill_id))
