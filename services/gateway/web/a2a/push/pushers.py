"""Follows tasks for those who have asked for notifications, in each gateway, one gateway for each configuration.

A gateway claims a configuration, renews the claim while it works, and notes how far it has come: another one goes on
from there when it dies. So each change is told at least once, and in order.
"""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import aclosing

from a2a.types import a2a_pb2 as a2a
from a2a.utils.proto_utils import to_stream_response

from agentmesh.agent.v1 import agent_pb2
from mesh.access import Principal
from mesh.errors import InvalidInput, MeshError, NotFound, Unauthenticated, Unavailable
from mesh.runtime import Backoff
from mesh.telemetry import get_logger
from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.gate import Asked, Gate
from services.gateway.web.a2a.push.configs import PushConfigs
from services.gateway.web.a2a.push.record import Record
from services.gateway.web.a2a.push.webhook import Webhook
from services.gateway.web.a2a.states import has_ended
from services.gateway.web.a2a.tasks import Artifacts, events_of
from services.gateway.web.caller import Caller

_CLAIM = 6.0
_RENEW = 2.0
_LOOK = 3.0
"""Seconds after which a gateway looks for what another one has left."""
_MOST = 256
_MOST_TRIES = 12
_METHOD = "WatchTask"

_log = get_logger(__name__)

Renew = Callable[[Principal], Principal]


class Pushers:
    """`renew` gives the principal with the roles of now; raises Unauthenticated when it counts no more."""

    def __init__(self, configs: PushConfigs, gate: Gate, agents: Agents, webhook: Webhook, renew: Renew) -> None:
        self._configs = configs
        self._gate = gate
        self._agents = agents
        self._webhook = webhook
        self._renew = renew
        self._owner = uuid.uuid4().hex
        self._running: set[str] = set()
        self._look = asyncio.Event()

    def wake(self) -> None:
        """There is something new."""
        self._look.set()

    async def run(self) -> None:
        """Tell what is to be told, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._look.clear()
                try:
                    await self._begin(group)
                except Unavailable as err:
                    _log.debug("push_configs_unknown", error=str(err))
                try:
                    async with asyncio.timeout(_LOOK):
                        await self._look.wait()
                except TimeoutError:
                    continue

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        for key, record in (await self._configs.all()).items():
            if record.is_done or key in self._running or len(self._running) >= _MOST:
                continue
            if await self._configs.claim(key, self._owner, _CLAIM):
                self._running.add(key)
                group.create_task(self._push(record))

    async def _push(self, record: Record) -> None:
        """Tell one to its end, or until it is another gateway's."""
        telling = asyncio.ensure_future(self._tell_all(record))
        try:
            while not telling.done():
                await asyncio.wait((telling,), timeout=_RENEW)
                if not telling.done() and not await self._is_still_ours(record):
                    telling.cancel()
                    await asyncio.wait((telling,))
            if not telling.cancelled() and (error := telling.exception()) is not None:
                # The next look takes it up again.
                _log.info("push_interrupted", agent=record.agent, task=record.config.task_id, error=str(error))
                if not isinstance(error, MeshError):
                    raise error
        finally:
            telling.cancel()
            self._running.discard(record.key)
            try:
                await self._configs.release(record.key, self._owner)
            except Unavailable as err:
                _log.debug("push_claim_left", error=str(err))

    async def _is_still_ours(self, record: Record) -> bool:
        try:
            claimed = await self._configs.claim(record.key, self._owner, _CLAIM)
            return claimed and await self._configs.is_kept(record.key)
        except Unavailable:
            # Nobody else can have claimed it while the storage is away.
            return True

    async def _tell_all(self, record: Record) -> None:
        config = record.config
        try:
            asked = self._ask_as(record)
            task = await self._agents.get(asked, config.task_id, with_history=False)
            self._gate.check_own(asked, _METHOD, task.skill_id)
            record = await self._follow(asked, task, record)
        except (NotFound, Unauthenticated, InvalidInput) as err:
            _log.warning("push_ended", agent=record.agent, task=config.task_id, error=str(err))
        if await self._configs.is_kept(record.key):
            await self._configs.put(record.done())

    async def _follow(self, asked: Asked, task: agent_pb2.Task, record: Record) -> Record:
        artifacts = Artifacts(task)
        last_state = 0
        # From the beginning: what belongs to an artifact that has been told of is more of it.
        async with aclosing(self._agents.watch(asked, task.id)) as updates:
            async for update in updates:
                is_news = update.state != last_state or bool(update.output)
                last_state = update.state
                for event in events_of(task, update, artifacts):
                    is_status = isinstance(event, a2a.TaskStatusUpdateEvent)
                    if update.sequence > record.sequence and (is_news or not is_status):
                        await self._tell(record, to_stream_response(event))
                if update.sequence > record.sequence:
                    record = record.told(update.sequence)
                    if is_news and not has_ended(update.state):
                        await self._note(record)
                        # Who may not log in any more is told nothing any more.
                        self._ask_as(record)
        return record

    async def _note(self, record: Record) -> None:
        if await self._configs.is_kept(record.key):
            await self._configs.put(record)

    async def _tell(self, record: Record, event: a2a.StreamResponse) -> None:
        """Raises InvalidInput when the webhook does not want it, or has been away for too long."""
        backoff = Backoff(0.2, 30.0)
        for attempt in range(_MOST_TRIES):
            if not await self._configs.is_kept(record.key):
                raise NotFound("The configuration was deleted.")
            try:
                await self._webhook.send(record.config, event)
            except Unavailable as err:
                if attempt == _MOST_TRIES - 1:
                    raise InvalidInput(err.summary, reason="WEBHOOK_AWAY") from err
            else:
                return
            await asyncio.sleep(backoff.next())

    def _ask_as(self, record: Record) -> Asked:
        return Asked(record.agent, Caller(self._renew(record.principal)))
