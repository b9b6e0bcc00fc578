"""Where meshctl keeps its logins: one for each edge, in files that only their owner can read."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition
from mesh.runtime.private_files import hold_private_dir, read_secret, remove_file, write_file
from services.meshctl.edge import Edge

_MARGIN = 30.0
"""Seconds before its end at which a token is renewed."""

_LOCK_TIMEOUT = 30.0
"""Seconds; longer than another process may take to renew the login."""

_OWN = "own"


@dataclass(frozen=True, slots=True)
class Login:
    """The tokens of a user; `expires` is seconds since 1970."""

    user: str
    access_token: str
    refresh_token: str
    expires: float

    def is_fresh(self, now: float) -> bool:
        """Whether the access token lives long enough to be shown."""
        return now < self.expires - _MARGIN


class LoginFile:
    """The login that is kept for one edge, in a file of mode 0600.

    That of the mesh in the state directory lies there; those of edges that were named by their URL in
    $XDG_CONFIG_HOME/agentmesh, by default ~/.config/agentmesh.
    """

    def __init__(self, settings: MeshSettings, edge: Edge) -> None:
        self._dir = settings.state_dir / "login" if edge.is_own else _config_dir() / "agentmesh"
        self._path = self._dir / "credentials.json"
        self._name = _OWN if edge.is_own else edge.url

    def load(self) -> Login | None:
        """What is kept; None when nobody has logged in. Raises FailedPrecondition when the file is damaged."""
        facts = self._read().get(self._name)
        if facts is None:
            return None
        try:
            return Login(**facts)
        except TypeError as err:
            raise self._damaged() from err

    def save(self, login: Login) -> None:
        """Keep a login. To be called while it is `held`."""
        self._write(self._read() | {self._name: asdict(login)})

    def forget(self) -> None:
        """Keep none any more. To be called while it is `held`."""
        self._write({name: facts for name, facts in self._read().items() if name != self._name})

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep other processes out while the block runs: a refresh token is good once."""
        with ExitStack() as stack:
            # In a thread: waiting for another process must not hold up the loop.
            await asyncio.to_thread(stack.enter_context, hold_private_dir(self._dir, timeout=_LOCK_TIMEOUT))
            yield

    def _read(self) -> dict[str, Any]:
        data = read_secret(self._path)
        if data is None:
            return {}
        try:
            content = json.loads(data)
        except ValueError as err:
            raise self._damaged() from err
        if not isinstance(content, dict):
            raise self._damaged()
        return content

    def _write(self, content: dict[str, Any]) -> None:
        if content:
            write_file(self._path, json.dumps(content).encode(), mode=0o600)
        else:
            remove_file(self._path)

    def _damaged(self) -> FailedPrecondition:
        return FailedPrecondition(
            f"{self._path} is damaged.", field=str(self._path), fix="Remove it and log in again: `meshctl login`."
        )


def _config_dir() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
