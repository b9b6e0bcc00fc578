"""Opens the door at the first knock: the SDK takes 10 MB, which a gateway without A2A does not need."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh.access import Principal
from services.gateway.channels import Channels
from services.gateway.guard.notes import Noted
from services.gateway.knowledge import Knowledge
from services.gateway.storage import Circuit, Storage

if TYPE_CHECKING:
    from services.gateway.web.a2a.bindings import Bindings


class A2aDoor:
    """What the bindings need, until there are some.

    `sign` makes the token that tells agents on whose behalf they are called; `note` writes the audit.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        channels: Channels,
        sign: Callable[[Principal], str],
        note: Callable[[Noted], None],
        storage: Storage,
    ) -> None:
        self._needs = knowledge, channels, sign, note
        self._storage = storage
        self._bindings: Bindings | None = None
        self._making = asyncio.Lock()

    async def bindings(self) -> "Bindings":
        """The bindings, made now if need be."""
        async with self._making:
            if self._bindings is None:
                self._bindings = await asyncio.to_thread(self._make)
            return self._bindings

    def _make(self) -> "Bindings":
        from services.gateway.web.a2a.agents import Agents
        from services.gateway.web.a2a.bindings import Bindings
        from services.gateway.web.a2a.gate import Gate
        from services.gateway.web.a2a.sent import Sent

        knowledge, channels, sign, note = self._needs
        sent = Sent(self._storage.answers, Circuit("a2a"))
        gate = Gate(knowledge, note)
        return Bindings(gate, Agents(gate, channels, sign), sent)
