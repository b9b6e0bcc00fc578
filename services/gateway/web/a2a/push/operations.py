"""The operations of A2A on push configurations."""

import hashlib

from a2a.types import a2a_pb2 as a2a

from agentmesh.agent.v1 import agent_pb2
from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.gate import Asked, Gate
from services.gateway.web.a2a.push.configs import PushConfigs
from services.gateway.web.a2a.push.pushers import Pushers
from services.gateway.web.a2a.states import has_ended

_METHOD = "WatchTask"


class PushOperations:
    """For tasks of the caller's, which may be told of them as far as it may watch them. Raise MeshError."""

    def __init__(self, gate: Gate, agents: Agents, configs: PushConfigs, pushers: Pushers) -> None:
        self._gate = gate
        self._agents = agents
        self._configs = configs
        self._pushers = pushers

    async def check(self, config: a2a.TaskPushNotificationConfig) -> None:
        """Raise InvalidInput for one that would be refused, before anything is done for its sake."""
        await self._configs.check(config)

    async def create(self, asked: Asked, config: a2a.TaskPushNotificationConfig) -> a2a.TaskPushNotificationConfig:
        """Tell of the changes of a task from now on."""
        task = await self._own(asked, config.task_id)
        record = await self._configs.create(asked, config, sequence=task.sequence, is_done=has_ended(task.state))
        self._pushers.wake()
        return record.config

    async def create_with(self, asked: Asked, task: agent_pb2.Task, params: a2a.SendMessageRequest) -> None:
        """The same for the task that a message has become; once, however often the message comes."""
        config = a2a.TaskPushNotificationConfig()
        config.CopyFrom(params.configuration.task_push_notification_config)
        config.task_id = task.id
        config.id = config.id or hashlib.sha256(params.message.message_id.encode()).hexdigest()[:32]
        if not await self._configs.is_there(asked, config):
            await self._configs.create(asked, config, sequence=task.sequence, is_done=has_ended(task.state))
            self._pushers.wake()

    async def get(
        self, asked: Asked, params: a2a.GetTaskPushNotificationConfigRequest
    ) -> a2a.TaskPushNotificationConfig:
        """One configuration."""
        await self._own(asked, params.task_id)
        return (await self._configs.get(asked, params.task_id, params.id)).config

    async def list(
        self, asked: Asked, params: a2a.ListTaskPushNotificationConfigsRequest
    ) -> a2a.ListTaskPushNotificationConfigsResponse:
        """All configurations of a task, on one page: there are few."""
        await self._own(asked, params.task_id)
        found = await self._configs.of_task(asked, params.task_id)
        return a2a.ListTaskPushNotificationConfigsResponse(configs=[record.config for record in found])

    async def delete(self, asked: Asked, params: a2a.DeleteTaskPushNotificationConfigRequest) -> None:
        """Tell nothing any more."""
        await self._own(asked, params.task_id)
        await self._configs.delete(asked, params.task_id, params.id)

    async def _own(self, asked: Asked, task_id: str) -> agent_pb2.Task:
        task = await self._agents.get(asked, task_id, with_history=False)
        self._gate.check_own(asked, _METHOD, task.skill_id)
        return task
