"""Envoy's admin interface, on a unix socket that only the launcher's user can open.

Source: https://www.envoyproxy.io/docs/envoy/latest/operations/admin
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import aiohttp

from mesh.errors import Unavailable

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_ACTIVE, _BUFFERED, _TOTAL = "downstream_rq_active", "downstream_cx_tx_bytes_buffered", "downstream_rq_total"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What some listeners do. `active` requests are in flight, `buffered` bytes wait for a slow reader.

    `total` counts all requests so far: when it stands still, nobody has come in between.
    """

    active: int
    buffered: int
    total: int

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way at this moment."""
        return not self.active and not self.buffered


class EnvoyAdmin:
    """What the launcher asks of its Envoy. Made by `open_admin`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def is_live(self) -> bool:
        """Whether Envoy has all of its configuration and serves; False while it does not answer."""
        try:
            async with self._session.get("http://envoy/ready") as response:
                return response.status == HTTPStatus.OK
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def drain(self) -> None:
        """Stop accepting connections from outside, and ask the callers on open ones to leave.

        The outbound listener is left alone: the application still needs it to finish. Raises Unavailable.
        """
        await self._post("/healthcheck/fail")
        await self._post("/drain_listeners?inboundonly")

    async def read_traffic(self, listeners: tuple[str, ...]) -> Traffic:
        """What the listeners with these names do, together. Raises Unavailable."""
        pattern = f"^http\\.({'|'.join(listeners)})\\.({_ACTIVE}|{_BUFFERED}|{_TOTAL})$"
        text = await self._request("GET", "/stats", {"filter": pattern})
        sums = dict.fromkeys((_ACTIVE, _BUFFERED, _TOTAL), 0)
        try:
            for line in text.splitlines():
                name, _, value = line.rpartition(":")
                sums[name.rpartition(".")[2]] += int(value)
        except (ValueError, KeyError) as err:
            raise Unavailable(f"Envoy's statistics cannot be read: {text[:200]!r}.") from err
        return Traffic(active=sums[_ACTIVE], buffered=sums[_BUFFERED], total=sums[_TOTAL])

    async def _post(self, path: str) -> None:
        await self._request("POST", path, {})

    async def _request(self, method: str, path: str, query: dict[str, str]) -> str:
        try:
            async with self._session.request(method, f"http://envoy{path}", params=query) as response:
                text = await response.text(encoding="utf-8", errors="replace")
                if response.status != HTTPStatus.OK:
                    raise Unavailable(f"Envoy answered {response.status} to {method} {path}: {text[:200]}")
                return text
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise Unavailable(f"Envoy does not answer {method} {path}: {str(err) or type(err).__name__}.") from err


@asynccontextmanager
async def open_admin(socket: Path) -> AsyncIterator[EnvoyAdmin]:
    """A client of the admin interface at `socket`; opening does not connect."""
    connector = aiohttp.UnixConnector(path=str(socket))
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
        yield EnvoyAdmin(session)
