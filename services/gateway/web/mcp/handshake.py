"""Hosts of the handshake era: sessions, questions as requests to the host, one stream for what belongs to no request.

https://modelcontextprotocol.io/specification/2025-11-25/basic/transports
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Send

from mesh.errors import InvalidInput, MeshError, NotFound
from mesh.mcp.frames import dump_json
from services.gateway.web.caller import Caller
from services.gateway.web.mcp.answer import PING_SECONDS, EventStream, attended, has_gone, send_json
from services.gateway.web.mcp.backend import Backend, HostRequest, Nobody
from services.gateway.web.mcp.live import LiveSession, LiveSessions, without_subscription
from services.gateway.web.mcp.sessions import Session, Sessions
from services.gateway.web.mcp.wire import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    HANDSHAKE,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVEL,
    METHOD_NOT_FOUND,
    MODERN,
    PROTOCOL_VERSION,
    SERVER_INFO,
    SESSION_NOT_FOUND,
    Outcome,
    RequestId,
    failure,
    failure_of,
    notification,
)

_SESSION_ID = "mcp-session-id"
_MOST_ROUNDS = 10
_LEVELS = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})
_NOT_HERE = frozenset({"server/discover", "subscriptions/listen"})
_USUAL_LEVEL = "info"
"""For hosts that have not said what they want to hear of a server that logs: in this era servers speak all the same."""
_ONE = "/servers/"


class HandshakeHost:
    """Serves all doors; what belongs to one host is in its session."""

    def __init__(self, sessions: Sessions, live: LiveSessions) -> None:
        self._sessions = sessions
        self._live = live

    async def post(
        self,
        backend: Backend,
        door: str,
        caller: Caller,
        frame: dict[str, Any],
        headers: Mapping[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer one POST whose body is any message."""
        request_id: RequestId | None = frame.get("id")
        if not _accepts_both(headers.get("accept", "")):
            await _refuse(send, 406, INVALID_REQUEST, "Accept must name application/json and text/event-stream.")
            return
        if frame.get("method") == "initialize" and request_id is not None:
            await self._initialize(backend, door, caller, frame, send)
            return
        try:
            session = self._find(headers, caller, door)
        except NotFound as err:
            await _refuse(send, 404, SESSION_NOT_FOUND, str(err), request_id)
            return
        except InvalidInput as err:
            await _refuse(send, 400, INVALID_REQUEST, str(err), request_id)
            return
        live = self._live.of(session.key)
        if "method" not in frame:
            live.take_answer(frame)
            await send_json(send, 202, b"")
        elif request_id is None:
            await self._take_notification(live, frame)
            await send_json(send, 202, b"")
        else:
            request = _modern(caller, door, session, live, frame)
            await self._answer(backend, session, live, request, frame["method"], request_id, receive, send)

    async def get(
        self, backend: Backend, door: str, caller: Caller, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        """Hold a stream open for what belongs to no request."""
        try:
            session = self._find(headers, caller, door)
        except (NotFound, InvalidInput) as err:
            status = 404 if isinstance(err, NotFound) else 400
            await _refuse(send, status, SESSION_NOT_FOUND if status == 404 else INVALID_REQUEST, str(err))
            return
        live = self._live.of(session.key)
        stream = EventStream(send)
        await stream.ping()
        await live.listen(stream)
        self._listen(backend, door, caller, session, live)
        gone = asyncio.ensure_future(has_gone(receive))
        try:
            while not stream.is_over:
                done, _ = await asyncio.wait({gone}, timeout=PING_SECONDS)
                if done:
                    break
                await stream.ping()
        finally:
            gone.cancel()
            if live.stream is stream:
                live.stream = None
        await stream.end()

    async def delete(self, door: str, caller: Caller, headers: Mapping[str, str], send: Send) -> None:
        """End a session."""
        try:
            session = self._find(headers, caller, door)
        except (NotFound, InvalidInput) as err:
            await _refuse(send, 404 if isinstance(err, NotFound) else 400, SESSION_NOT_FOUND, str(err))
            return
        self._live.end(session.key)
        await send_json(send, 200, b"")

    def _find(self, headers: Mapping[str, str], caller: Caller, door: str) -> Session:
        text = headers.get(_SESSION_ID, "")
        if not text:
            raise InvalidInput("There is no session id.", field="Mcp-Session-Id", fix="Initialize a session first.")
        session = self._sessions.find(text, str(caller.principal), door)
        if self._live.has_ended(session.key):
            raise NotFound("The session has ended.", reason="SESSION_NOT_FOUND", fix="Initialize a new one.")
        version = headers.get("mcp-protocol-version", session.version)
        if version not in HANDSHAKE:
            raise InvalidInput(
                f"The revision {version[:40]!r} is not spoken in this session.",
                field="MCP-Protocol-Version",
                fix=f"Send {session.version}.",
            )
        return session

    async def _initialize(self, backend: Backend, door: str, caller: Caller, frame: dict[str, Any], send: Send) -> None:
        request_id: RequestId = frame["id"]
        params = frame.get("params")
        if not isinstance(params, dict) or not isinstance(params.get("protocolVersion"), str):
            await _refuse(send, 400, INVALID_PARAMS, "initialize needs params.protocolVersion.", request_id)
            return
        client, capabilities = params.get("clientInfo"), params.get("capabilities")
        version = params["protocolVersion"] if params["protocolVersion"] in HANDSHAKE else HANDSHAKE[0]
        client = client if isinstance(client, dict) else {}
        capabilities = capabilities if isinstance(capabilities, dict) else {}
        meta = {PROTOCOL_VERSION: MODERN[0], CLIENT_INFO: client, CLIENT_CAPABILITIES: capabilities}
        request = HostRequest(caller, door, "server/discover", {"_meta": meta}, meta)
        try:
            outcome = await backend.serve(request, Nobody())
        except MeshError as err:
            outcome = failure_of(err)
        if outcome.result is None:
            await send_json(send, 200, outcome.message(request_id))
            return
        hello = json.loads(outcome.result)
        info = (hello.get("_meta") or {}).get(SERVER_INFO) or hello.get("serverInfo")
        result = {
            "protocolVersion": version,
            "capabilities": hello.get("capabilities") or {},
            "serverInfo": info or {"name": "agentmesh", "version": "0"},
            **({"instructions": hello["instructions"]} if hello.get("instructions") else {}),
        }
        try:
            _, text = self._sessions.begin(
                str(caller.principal),
                door,
                version,
                client,
                capabilities,
                has_logs="logging" in result["capabilities"] and door.startswith(_ONE),
            )
        except MeshError as err:
            await send_json(send, 200, failure_of(err).message(request_id))
            return
        message = Outcome(result=dump_json(result)).message(request_id)
        await send_json(send, 200, message, (_SESSION_ID.encode(), text.encode()))

    async def _take_notification(self, live: LiveSession, frame: dict[str, Any]) -> None:
        params = frame.get("params")
        if frame["method"] == "notifications/cancelled" and isinstance(params, dict):
            request_id = params.get("requestId")
            if isinstance(request_id, str | int):
                live.cancel(request_id)

    async def _answer(
        self,
        backend: Backend,
        session: Session,
        live: LiveSession,
        request: HostRequest,
        method: str,
        request_id: RequestId,
        receive: Receive,
        send: Send,
    ) -> None:
        own = self._answer_here(backend, session, live, request, method)
        if own is not None:
            await send_json(send, 200, own.message(request_id))
            return
        stream = EventStream(send)
        task = asyncio.current_task()
        assert task is not None
        live.running[request_id] = task
        outcome: Outcome | None
        try:
            # A host of this era that hangs up does not cancel by that.
            outcome = await attended(_serve(backend, request, _SessionHost(live, stream)), None, stream)
        except asyncio.CancelledError:
            if live.running.get(request_id) is task:
                raise
            # The host has cancelled it, and expects no answer.
            task.uncancel()
            outcome = None
        finally:
            if live.running.get(request_id) is task:
                del live.running[request_id]
        if outcome is None:
            outcome = failure(INTERNAL_ERROR, "The request was cancelled.")
        message = outcome.message(request_id)
        if stream.has_begun:
            await stream.event(message)
            await stream.end()
        else:
            await send_json(send, 200, message)

    def _answer_here(
        self, backend: Backend, session: Session, live: LiveSession, request: HostRequest, method: str
    ) -> Outcome | None:
        """The outcome of what is about the session itself; None for what goes to a server."""
        params = request.params
        match method:
            case "ping":
                return Outcome(result=b"{}")
            case "logging/setLevel":
                if params.get("level") not in _LEVELS:
                    return failure(INVALID_PARAMS, "params.level is no level.")
                live.log_level = str(params["level"])
                return Outcome(result=b"{}")
            case "resources/subscribe" | "resources/unsubscribe":
                uri = params.get("uri")
                if not isinstance(uri, str) or not uri:
                    return failure(INVALID_PARAMS, "params.uri is missing.")
                if method == "resources/subscribe":
                    live.subscriptions.add(uri)
                else:
                    live.subscriptions.discard(uri)
                if live.listener is not None:
                    live.listener.cancel()
                    live.listener = None
                self._listen(backend, request.door, request.caller, session, live)
                return Outcome(result=b"{}")
        if method in _NOT_HERE or not isinstance(method, str):
            return failure(METHOD_NOT_FOUND, f"Method not found: {method}")
        return None

    def _listen(self, backend: Backend, door: str, caller: Caller, session: Session, live: LiveSession) -> None:
        """Follow what changes at the servers, for as long as the session is used here."""
        if live.listener is not None and not live.listener.done():
            return
        wanted = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": True,
            **({"resourceSubscriptions": sorted(live.subscriptions)} if live.subscriptions else {}),
        }
        frame = {"method": "subscriptions/listen", "params": {"notifications": wanted}}
        request = _modern(caller, door, session, None, frame)
        live.listener = asyncio.create_task(_follow(backend, request, live))


class _SessionHost:
    """The way to a host while one request of its session runs."""

    def __init__(self, live: LiveSession, stream: EventStream) -> None:
        self._live = live
        self._stream = stream

    async def tell(self, method: str, params: bytes) -> None:
        await self._stream.event(notification(method, params))

    async def ask(self, method: str, params: bytes) -> Outcome:
        return await self._live.ask(self._stream, method, params)


class _ListeningHost:
    """The way to a host for what belongs to no request."""

    def __init__(self, live: LiveSession) -> None:
        self._live = live

    async def tell(self, method: str, params: bytes) -> None:
        if method != "notifications/subscriptions/acknowledged":
            await self._live.tell(method, without_subscription(params))

    async def ask(self, method: str, params: bytes) -> Outcome:
        return await Nobody().ask(method, params)


async def _follow(backend: Backend, request: HostRequest, live: LiveSession) -> None:
    """Listen until cancelled; what a server cannot or may not tell is left out."""
    try:
        await backend.serve(request, _ListeningHost(live))
    except MeshError:
        return


async def _serve(backend: Backend, request: HostRequest, host: _SessionHost) -> Outcome:
    """Serve a request; when the server wants to be told something first, ask the host for it, as often as needed."""
    try:
        outcome = await backend.serve(request, host)
        for _ in range(_MOST_ROUNDS):
            if not outcome.needs_input or outcome.result is None:
                return outcome
            wanted = json.loads(outcome.result)
            answers = await _ask_all(wanted.get("inputRequests") or {}, host)
            if isinstance(answers, Outcome):
                return answers
            params = {**request.params, "inputResponses": answers}
            params.pop("requestState", None)
            if "requestState" in wanted:
                params["requestState"] = wanted["requestState"]
            request = HostRequest(request.caller, request.door, request.method, params, request.meta)
            outcome = await backend.serve(request, host)
    except MeshError as err:
        return failure_of(err)
    return failure(INTERNAL_ERROR, f"The server wants to be told something more than {_MOST_ROUNDS} times.")


async def _ask_all(wanted: dict[str, Any], host: _SessionHost) -> dict[str, Any] | Outcome:
    """The host's answers by their keys; what went wrong when it does not give one."""
    asking = {
        key: asyncio.ensure_future(
            host.ask(str(each.get("method")), dump_json(each["params"]) if "params" in each else b"")
        )
        for key, each in wanted.items()
        if isinstance(each, dict)
    }
    answers: dict[str, Any] = {}
    try:
        for key, task in asking.items():
            outcome = await task
            if outcome.result is None:
                return outcome
            answers[key] = json.loads(outcome.result)
    finally:
        for task in asking.values():
            task.cancel()
    return answers


def _modern(
    caller: Caller, door: str, session: Session, live: LiveSession | None, frame: Mapping[str, Any]
) -> HostRequest:
    """A request of a session in the form of 2026-07-28."""
    params = frame.get("params")
    params = dict(params) if isinstance(params, dict) else {}
    given = params.get("_meta")
    meta = {
        **(given if isinstance(given, dict) else {}),
        PROTOCOL_VERSION: MODERN[0],
        CLIENT_INFO: session.client,
        CLIENT_CAPABILITIES: session.capabilities,
    }
    level = live.log_level if live is not None else ""
    if live is not None and not level and session.has_logs:
        level = _USUAL_LEVEL
    if level:
        meta[LOG_LEVEL] = level
    params["_meta"] = meta
    return HostRequest(caller, door, str(frame["method"]), params, meta)


def _accepts_both(accept: str) -> bool:
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if "*/*" in kinds:
        return True
    return bool({"application/json", "application/*"} & kinds and {"text/event-stream", "text/*"} & kinds)


async def _refuse(send: Send, status: int, code: int, text: str, request_id: RequestId | None = None) -> None:
    body = dump_json({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}})
    await send_json(send, status, body)
