"""One session with a server of the handshake era: a connection of its own, opened with a client's capabilities."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, METHOD_NOT_FOUND
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION

import mesh
from mesh.errors import MeshError, Unavailable
from mesh.mcp.calls import LOG_LEVELS, is_heavy_enough
from mesh.mcp.faults import too_late, unreadable
from mesh.mcp.frames import BadFrame, dump_json, load_json_object
from mesh.mcp.link import LinkPeer
from mesh.mcp.noise import NoiseLog
from mesh.mcp.requests.exchange import Listener, Lost, Outcome, Request, Unreadable
from mesh.mcp.requests.mux import Mux

_SIDE_REQUEST_SECONDS = 5.0
_OWN_INFO = {"name": "agentmesh", "version": mesh.__version__}
_NOTHING: Mapping[str, str] = {}

Question = Callable[[str | int, str, dict[str, Any]], bool]
"""Takes a request of the server (id, method, params); tells whether it took it."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Who may share a session: requests of one caller, with one key, of clients that can do the same."""

    caller: str
    session_key: str
    capabilities: str

    @property
    def can_be_asked(self) -> bool:
        """Tell whether the client can be asked something."""
        return self.capabilities != "{}"


def key_of(caller: str, session_key: str, request: Request) -> SessionKey:
    """Return the key of the session that a request belongs to."""
    found = request.meta.get(CLIENT_CAPABILITIES_META_KEY)
    capabilities = dict(sorted(found.items())) if isinstance(found, dict) else {}
    return SessionKey(caller, session_key, dump_json(capabilities).decode())


def client_info_of(request: Request) -> dict[str, Any]:
    """Return what the client says of itself, or else who the mesh is."""
    found = request.meta.get(CLIENT_INFO_META_KEY)
    if isinstance(found, dict) and isinstance(found.get("name"), str) and isinstance(found.get("version"), str):
        return found
    return _OWN_INFO


class Session:
    """A session while its connection is open."""

    def __init__(
        self, server: str, peer: LinkPeer, *, max_bytes: int, on_change: Callable[[str], None] = lambda method: None
    ) -> None:
        """`on_change` is told the method of notifications that say that a list has changed."""
        self.hello: dict[str, Any] = {}
        self.listeners: set[Listener] = set()
        self.question: Question | None = None
        self._server = server
        self._peer = peer
        self._on_change = on_change
        self._noise = NoiseLog(server)
        self._log_level: str | None = None
        self._mux = Mux(self._send, max_bytes=max_bytes, on_request=self._on_request, on_notify=self._on_notify)
        self._replies: list[tuple[str | int, str, bytes]] = []
        self._why = ""
        self._why_known = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """True once nothing can be asked any more."""
        return self._mux.is_over

    async def run(self) -> None:
        """Carry frames from the server until it ends; then everybody who waits gets the reason."""
        try:
            while (received := await self._peer.receive()) is not None:
                try:
                    if not self._mux.offer(received[0]):
                        self._noise.warn("mcp_frame_to_nobody", size=len(received[0]))
                except BadFrame as bad:
                    self._noise.warn("mcp_line_not_json_rpc", why=str(bad)[:200])
                while self._replies:
                    await self._mux.answer(*self._replies.pop())
            self._mux.end()
            self._why = await self._peer.explain()
        except MeshError as err:
            self._why = err.summary
        finally:
            self._why = self._why or "the bridge has closed the session"
            self._mux.end()
            self._why_known.set()

    async def start(self, capabilities: Mapping[str, Any], client: Mapping[str, Any], *, timeout: float) -> None:
        """Shake hands. Raises Unavailable when the server does not."""
        params = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": capabilities, "clientInfo": client}
        try:
            async with asyncio.timeout(timeout):
                outcome = await self._mux.ask(Request("initialize", dump_json(params), params), _NOTHING)
                if outcome.parsed is None:
                    raise self._not_ready(f"it refused the handshake: {_message_of(outcome.error)}")
                version = outcome.parsed.get("protocolVersion")
                if version not in HANDSHAKE_PROTOCOL_VERSIONS:
                    raise self._not_ready(f"it speaks revision {version!r}, which nobody here knows")
                self.hello = dict(outcome.parsed)
                await self._mux.notify("notifications/initialized", {})
        except TimeoutError:
            raise self._not_ready(f"it has not finished the handshake within {timeout:.3g} s") from None
        except Lost:
            await self._why_known.wait()
            raise self._not_ready(self._why) from None
        except Unreadable as err:
            raise self._not_ready(str(err)) from None

    async def ask(self, request: Request, listener: Listener | None = None, *, timeout: float) -> Outcome:
        """Send a request as it is; cancelling cancels it at the server.

        Raises DeadlineExceeded after `timeout` seconds, Unavailable when the session ends, ResourceExhausted for an
        answer that cannot be read.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._mux.ask(request, _NOTHING, listener)
        except TimeoutError:
            raise too_late(self._server, request.method, timeout) from None
        except Lost:
            await self._why_known.wait()
            raise Unavailable(
                f"MCP server {self._server!r} is gone: {self._why}.",
                reason="MCP_SERVER_LOST",
                fix="Call again; that opens a new session.",
            ) from None
        except Unreadable as err:
            raise unreadable(self._server, request.method, str(err)) from None

    async def answer(self, request_id: str | int, kind: str, text: bytes) -> None:
        """Answer a question of the server; `kind` is "result" or "error". Says nothing when the session is over."""
        if not self.is_over:
            with suppress(MeshError):
                await self._mux.answer(request_id, kind, text)

    async def want_logs(self, level: str) -> None:
        """Have the server send log messages from `level` on. A server that does not is no reason to fail."""
        if level not in LOG_LEVELS or "logging" not in (self.hello.get("capabilities") or {}):
            return
        known = self._log_level
        if known is not None and LOG_LEVELS.index(known) <= LOG_LEVELS.index(level):
            return  # never made heavier again: that would silence other requests
        params = {"level": level}
        with suppress(MeshError):
            request = Request("logging/setLevel", dump_json(params), params)
            if (await self.ask(request, timeout=_SIDE_REQUEST_SECONDS)).parsed is not None:
                self._log_level = level

    async def _send(self, frame: bytes, said: Mapping[str, Any]) -> None:
        await self._peer.send(frame, said, _NOTHING)

    def _on_request(self, frame: dict[str, Any]) -> bool:
        method, request_id, params = frame["method"], frame["id"], frame.get("params")
        if method == "ping":
            self._replies.append((request_id, "result", b"{}"))
        elif self.question is None or not self.question(request_id, method, params if isinstance(params, dict) else {}):
            error = {"code": METHOD_NOT_FOUND, "message": f"There is nobody to be asked: {method}"}
            self._replies.append((request_id, "error", dump_json(error)))
        return True

    def _on_notify(self, method: str, params: dict[str, Any]) -> bool:
        if method.endswith("/list_changed"):
            self._on_change(method)
        level = params.get("level") if method == "notifications/message" else None
        for listener in self.listeners:
            if level is None or is_heavy_enough(level, listener.log_level):
                listener.notify(method, params)
        return True

    def _not_ready(self, why: str) -> Unavailable:
        return Unavailable(
            f"Opening a session with MCP server {self._server!r} failed: {why}.", reason="MCP_SERVER_NOT_READY"
        )


def _message_of(error: bytes) -> str:
    return str(load_json_object(error).get("message", ""))[:300]
