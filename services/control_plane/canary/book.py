"""Where canaries are kept: one small value in a KeyStore, changed by compare-and-set, shared by all control planes."""

import asyncio
from collections.abc import AsyncIterator, Callable

from mesh.config.history import Entry, KeyStore
from mesh.errors import FailedPrecondition, NotFound
from services.control_plane.canary.record import Canary, from_bytes, to_bytes

_KEY = "canaries"
_MOST_ENDED = 50
_MOST_TRIES = 20

Canaries = tuple[Canary, ...]


class CanaryBook:
    """All canaries of a mesh, newest first: those that run, and the newest that have ended.

    `is_shared` tells that other processes change the store, too.
    """

    def __init__(self, keys: KeyStore, *, is_shared: bool = False) -> None:
        self._keys = keys
        self._is_shared = is_shared
        self._changed = asyncio.Event()

    async def read(self) -> Canaries:
        """All canaries. Raises MeshError when they cannot be read."""
        canaries, _ = await self._read()
        return canaries

    async def newest(self, service: str) -> Canary:
        """The newest canary of a service; raises NotFound when there was none."""
        for canary in await self.read():
            if canary.plan.service == service:
                return canary
        raise NotFound(
            f"There was no canary of {service}.",
            reason="NO_CANARY",
            field="service",
            fix="See `meshctl canary list`, or start one with `meshctl canary start`.",
        )

    async def start(self, canary: Canary) -> None:
        """Add a canary; raises FailedPrecondition when one of the service runs."""

        def add(canaries: Canaries) -> Canaries:
            if any(known.is_running and known.plan.service == canary.plan.service for known in canaries):
                raise FailedPrecondition(
                    f"A canary of {canary.plan.service} runs already.",
                    reason="CANARY_RUNS",
                    field="plan.service",
                    fix=f"See `meshctl canary status {canary.plan.service}`; promote or abort it first.",
                )
            return (canary, *canaries)

        await self._change(add)

    async def change(self, service: str, change: Callable[[Canary], Canary]) -> Canary:
        """Change the running canary of a service; raises FailedPrecondition when none runs."""
        changed: list[Canary] = []

        def replace_it(canaries: Canaries) -> Canaries:
            for position, known in enumerate(canaries):
                if known.is_running and known.plan.service == service:
                    changed[:] = [change(known)]
                    return (*canaries[:position], *changed, *canaries[position + 1 :])
            raise FailedPrecondition(
                f"No canary of {service} runs.",
                reason="NO_CANARY_RUNS",
                field="service",
                fix="See `meshctl canary list`.",
            )

        await self._change(replace_it)
        return changed[0]

    async def watch(self) -> AsyncIterator[None]:
        """Give at once, and again after every change. For ever."""
        if self._is_shared:
            async for _ in self._keys.watch():
                yield None
        while True:
            changed = self._changed
            yield None
            await changed.wait()

    async def _read(self) -> tuple[Canaries, Entry | None]:
        entry = await self._keys.get(_KEY)
        return (() if entry is None else from_bytes(entry.value, place=_KEY)), entry

    async def _change(self, change: Callable[[Canaries], Canaries]) -> None:
        for _ in range(_MOST_TRIES):
            canaries, entry = await self._read()
            after = change(canaries)
            if after == canaries:
                return
            expected = "" if entry is None else entry.version
            if await self._keys.put(_KEY, to_bytes(_forget(after)), expected=expected):
                self._changed.set()
                self._changed = asyncio.Event()
                return
        raise FailedPrecondition(
            "Others change the canaries all the time.", reason="CANARIES_BUSY", fix="Try again.", retryable=True
        )


def _forget(canaries: Canaries) -> Canaries:
    """All that run and the newest that have ended."""
    ended = 0
    kept = []
    for canary in canaries:
        if not canary.is_running:
            ended += 1
            if ended > _MOST_ENDED:
                continue
        kept.append(canary)
    return tuple(kept)
