"""Which message has become which task. An agent knows that of itself; with several instances the next may not.

What is noted here outlives this gateway when there is a storage that gateways share. Without it, or when it does not
answer, the agent's own memory is what there is.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.errors import Unavailable
from services.gateway.storage import Answers, Circuit

_LIFETIME = 3600.0
"""Seconds: as long as agents keep tasks that have ended, if they do not say otherwise."""


class Sent:
    """Messages by principal, agent and id."""

    def __init__(self, answers: Answers, circuit: Circuit) -> None:
        self._answers = answers
        self._circuit = circuit
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def turn(self, principal: str, agent: str, message_id: str) -> AsyncIterator["Turn"]:
        """One after the other for the same message: whoever comes second finds what the first has made."""
        text = "\0".join((principal, agent, message_id))
        key = f"a2a:sent:{hashlib.sha256(text.encode()).hexdigest()}"
        lock, waiting = self._turns.get(key, (asyncio.Lock(), 0))
        self._turns[key] = lock, waiting + 1
        try:
            async with lock:
                yield Turn(self, key)
        finally:
            lock, waiting = self._turns[key]
            if waiting == 1:
                del self._turns[key]
            else:
                self._turns[key] = lock, waiting - 1

    async def _find(self, key: str) -> str:
        with contextlib.suppress(Unavailable):
            (found,) = await self._circuit.ask(lambda: self._answers.get([key]))
            return (found or b"").decode()
        return ""

    async def _note(self, key: str, task_id: str) -> None:
        with contextlib.suppress(Unavailable):
            await self._circuit.ask(lambda: self._answers.put(key, task_id.encode(), _LIFETIME))


class Turn:
    """The time in which nobody else of this gateway sends the same message."""

    def __init__(self, sent: Sent, key: str) -> None:
        self._sent = sent
        self._key = key

    async def task_id(self) -> str:
        """The task that the message has become, "" when it is not known to be any."""
        return await self._sent._find(self._key)

    async def note(self, task_id: str) -> None:
        """Note what it has become."""
        await self._sent._note(self._key, task_id)
