"""Opens the door at the first knock: the SDK takes 10 MB, which a gateway without A2A does not need."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from mesh.access import Principal
from mesh.errors import Unavailable
from services.gateway.channels import Channels
from services.gateway.guard.notes import Notes
from services.gateway.knowledge import Knowledge
from services.gateway.limits import RateLimits
from services.gateway.storage import Storage

if TYPE_CHECKING:
    from services.gateway.web.a2a.bindings import Bindings

PUSH = "a2a:push"
"""The group of records of push configurations."""

_LOOK = 3.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What the door needs of the gateway. `sign` makes the token that tells agents on whose behalf they are called.

    To addresses in `push_networks` notifications may go although they are not public.
    """

    knowledge: Knowledge
    channels: Channels
    sign: Callable[[Principal], str]
    notes: Notes
    limits: RateLimits
    storage: Storage
    push_networks: Sequence[IPv4Network | IPv6Network] = ()


class A2aDoor:
    """What there is before the SDK is."""

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self._bindings: Bindings | None = None
        self._making = asyncio.Lock()
        self._is_open = asyncio.Event()
        self._ending = asyncio.Event()

    async def bindings(self) -> "Bindings":
        """The bindings, made now if need be."""
        async with self._making:
            if self._bindings is None:
                self._bindings = await asyncio.to_thread(self._make)
                self._is_open.set()
            return self._bindings

    async def run(self) -> None:
        """Send notifications, for ever: those that gateways before this one have left, too."""
        while not self._is_open.is_set() and not await self._has_records():
            try:
                async with asyncio.timeout(_LOOK):
                    await self._is_open.wait()
            except TimeoutError:
                continue
        await (await self.bindings()).pushers.run()

    def end_streams(self) -> None:
        """Let all streams end: who reads them takes them up again at another gateway."""
        self._ending.set()

    async def _has_records(self) -> bool:
        try:
            return bool(await self._needs.storage.records.all(PUSH))
        except Unavailable:
            return False

    def _make(self) -> "Bindings":
        from services.gateway.web.a2a.bindings import Bindings

        return Bindings(self._needs, ending=self._ending)
