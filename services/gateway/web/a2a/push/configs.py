"""The push configurations of tasks: made, read, listed, deleted."""

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from a2a.types import a2a_pb2 as a2a

from mesh.errors import InvalidInput, NotFound, ResourceExhausted
from services.gateway.storage import Circuit, Records
from services.gateway.web.a2a.gate import Asked
from services.gateway.web.a2a.lazy import PUSH
from services.gateway.web.a2a.push.record import Record, open_record
from services.gateway.web.a2a.push.webhook import Webhook
from services.gateway.web.mcp.sessions import Sealer

_LIFE = 24 * 3600.0
_MOST_PER_TASK = 10
_MOST = 2000
_LONGEST = 8 << 10

_T = TypeVar("_T")


class PushConfigs:
    """Keeps them in the storage; all methods raise Unavailable when that does not answer."""

    def __init__(
        self,
        records: Records,
        circuit: Circuit,
        sealer: Sealer,
        webhook: Webhook,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._circuit = circuit
        self._sealer = sealer
        self._webhook = webhook
        self._clock = clock

    async def create(
        self, asked: Asked, config: a2a.TaskPushNotificationConfig, *, sequence: int, is_done: bool = False
    ) -> Record:
        """Keep one; changes of the task after `sequence` are told. Raises InvalidInput for a bad URL."""
        made = a2a.TaskPushNotificationConfig()
        made.CopyFrom(config)
        made.id = config.id or uuid.uuid4().hex
        made.tenant = ""
        await self.check(made)
        record = Record(asked.agent, made, asked.caller.principal, sequence, self._clock() + _LIFE, is_done)
        kept = await self.all()
        if record.key not in kept:
            of_task = [it for it in kept.values() if (it.agent, it.config.task_id) == (asked.agent, made.task_id)]
            if len(of_task) >= _MOST_PER_TASK or len(kept) >= _MOST:
                raise ResourceExhausted(
                    "There are too many push configurations.", reason="TOO_MANY_CONFIGS", fix="Delete some."
                )
        await self.put(record)
        return record

    async def get(self, asked: Asked, task_id: str, config_id: str) -> Record:
        """One of a task of the caller's; raises NotFound."""
        key = f"{asked.agent}/{task_id}/{config_id}"
        sealed = await self._ask(lambda: self._records.get(PUSH, key))
        record = open_record(sealed, self._sealer) if sealed else None
        if record is None or str(record.principal) != str(asked.caller.principal):
            raise NotFound(f"The task has no configuration {config_id[:128]!r}.", reason="UNKNOWN_TASK", field="id")
        return record

    async def of_task(self, asked: Asked, task_id: str) -> list[Record]:
        """All of a task of the caller's, sorted by id."""
        found = [
            record
            for record in (await self.all()).values()
            if (record.agent, record.config.task_id) == (asked.agent, task_id)
            and str(record.principal) == str(asked.caller.principal)
        ]
        return sorted(found, key=lambda record: record.config.id)

    async def delete(self, asked: Asked, task_id: str, config_id: str) -> None:
        """Remove one, if there is one."""
        try:
            record = await self.get(asked, task_id, config_id)
        except NotFound:
            return
        await self.remove(record.key)

    async def all(self) -> dict[str, Record]:
        """All that there are, by key; those whose time is over are removed."""
        found: dict[str, Record] = {}
        for key, sealed in (await self._ask(lambda: self._records.all(PUSH))).items():
            record = open_record(sealed, self._sealer)
            if record is None or record.ends_at < self._clock():
                await self.remove(key)
            else:
                found[key] = record
        return found

    async def check(self, config: a2a.TaskPushNotificationConfig) -> None:
        """Raise InvalidInput for one that would be refused."""
        if config.ByteSize() > _LONGEST or "/" in config.id:
            raise InvalidInput("The configuration is too long, or its id has a slash.", field="id")
        await self._webhook.check(config.url)

    async def is_there(self, asked: Asked, config: a2a.TaskPushNotificationConfig) -> bool:
        """Whether there is one of this task and id."""
        return await self.is_kept(f"{asked.agent}/{config.task_id}/{config.id}")

    async def is_kept(self, key: str) -> bool:
        """Whether it has not been deleted meanwhile."""
        return await self._ask(lambda: self._records.get(PUSH, key)) is not None

    async def put(self, record: Record) -> None:
        """Keep how far it has been told."""
        sealed = record.seal(self._sealer)
        await self._ask(lambda: self._records.put(PUSH, record.key, sealed))

    async def remove(self, key: str) -> None:
        """Remove one by its key."""
        await self._ask(lambda: self._records.remove(PUSH, key))

    async def claim(self, key: str, owner: str, lifetime: float) -> bool:
        """Whether it is for `owner`, a gateway, to tell it for so many seconds."""
        return await self._ask(lambda: self._records.claim(f"{PUSH}:{key}", owner, lifetime))

    async def release(self, key: str, owner: str) -> None:
        """Leave it to others."""
        await self._ask(lambda: self._records.release(f"{PUSH}:{key}", owner))

    async def _ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        return await self._circuit.ask(question)
