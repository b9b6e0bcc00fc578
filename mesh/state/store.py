"""The newest state, and a watch that always gives the newest."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from mesh.config.document import Policy
from mesh.model import Declaration, Instance, TokenIssuer
from mesh.state.mesh_state import MeshState


class StateStore:
    """Holds the newest MeshState. Belongs to one event loop."""

    def __init__(self, initial: MeshState) -> None:
        self._current = initial
        self._changed = asyncio.Event()

    @property
    def current(self) -> MeshState:
        """The newest state."""
        return self._current

    def set_services(self, services: Mapping[str, tuple[Instance, ...]]) -> None:
        """Replace all services."""
        self._set(self._current.with_services(services))

    def set_declarations(self, declarations: Mapping[str, Declaration]) -> None:
        """Replace all declarations."""
        self._set(self._current.with_declarations(declarations))

    def set_policy(self, policy: Policy) -> None:
        """Replace the mesh document."""
        self._set(self._current.with_policy(policy))

    def set_revoked(self, services: frozenset[str]) -> None:
        """Replace the services whose identities are revoked."""
        self._set(self._current.with_revoked(services))

    def set_token_issuer(self, issuer: TokenIssuer) -> None:
        """Replace the mesh's own token issuer."""
        self._set(self._current.with_token_issuer(issuer))

    async def watch(self) -> AsyncIterator[MeshState]:
        """Give the state at once and after every change. Latest wins: a slow reader misses the ones between."""
        seen: MeshState | None = None
        while True:
            changed = self._changed
            if self._current is not seen:
                seen = self._current
                yield seen
            else:
                await changed.wait()

    def _set(self, state: MeshState) -> None:
        if state is self._current:
            return
        self._current = state
        self._changed.set()
        self._changed = asyncio.Event()
