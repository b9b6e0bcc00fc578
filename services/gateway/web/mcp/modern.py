"""Hosts of the modern era: each request stands for itself.

https://modelcontextprotocol.io/specification/2026-07-28/basic/transports
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from mcp.shared.inbound import (
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from starlette.types import Receive, Send

from mesh.errors import MeshError
from mesh.mcp.frames import dump_json
from services.gateway.web.caller import Caller
from services.gateway.web.mcp.answer import EventStream, attended, has_gone, send_json, status_of, with_pings
from services.gateway.web.mcp.backend import Backend, HostRequest, Nobody
from services.gateway.web.mcp.waiting import Conversation, WaitingRoom
from services.gateway.web.mcp.wire import (
    HANDSHAKE,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MODERN,
    SUBSCRIPTION_ID,
    Outcome,
    RequestId,
    failure,
    failure_of,
    notification,
)

_NOT_HERE = frozenset({"ping", "initialize", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""What this era has no more."""


class ModernHost:
    """Serves one kind of door; `waiting` keeps dialogs in which a server waits for an answer of a host."""

    def __init__(self, waiting: WaitingRoom) -> None:
        self._waiting = waiting

    async def serve(
        self,
        backend: Backend,
        door: str,
        caller: Caller,
        frame: Mapping[str, Any],
        headers: list[tuple[str, str]],
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer one POST whose body is a request or a notification."""
        by_name = dict(headers)
        if "id" not in frame:
            version = by_name.get("mcp-protocol-version", "")
            unsupported = unsupported_protocol_version_rejection(version)
            if unsupported is not None:
                await self._refuse(send, unsupported, None)
                return
            await send_json(send, 202, b"")
            return
        request_id: RequestId = frame["id"]
        accept = by_name.get("accept", "")
        if not _accepts(accept, "application/json") or not _accepts(accept, "text/event-stream"):
            text = "Accept must name application/json and text/event-stream."
            await send_json(send, 406, failure(INVALID_REQUEST, text).message(request_id))
            return
        if duplicated := find_duplicated_routing_header(headers):
            await self._refuse(
                send, InboundLadderRejection(-32020, f"{duplicated} header appears more than once"), request_id
            )
            return
        if frame["method"] in _NOT_HERE:
            await send_json(
                send, 404, failure(METHOD_NOT_FOUND, f"Method not found: {frame['method']}").message(request_id)
            )
            return
        verdict: Any = classify_inbound_request(dict(frame), headers=by_name)
        if not isinstance(verdict, InboundLadderRejection) and frame["method"] == "tools/call":
            verdict = _check_arguments(backend, frame.get("params") or {}, by_name)
        if isinstance(verdict, InboundLadderRejection):
            await self._refuse(send, verdict, request_id)
            return
        params = frame.get("params") or {}
        request = HostRequest(caller, door, frame["method"], params, params.get("_meta") or {})
        stream = EventStream(send)
        if request.has_only_result and "requestState" not in params:
            said = await attended(_only_result(backend, request), receive, stream)
            if said is not None:
                await self._answer(send, stream, said, request_id)
            return
        conversation = self._conversation(backend, request)
        if isinstance(conversation, Outcome):
            await self._answer(send, stream, conversation, request_id)
            return
        subscription = request_id if request.method == "subscriptions/listen" else None
        gone = asyncio.ensure_future(has_gone(receive))
        work = asyncio.ensure_future(with_pings(stream, _relay(conversation, stream, subscription)))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                # Closing the stream is how a host of this era cancels.
                conversation.cancel()
                return
            await self._answer(send, stream, _told_here(request, work.result()), request_id)
        finally:
            gone.cancel()
            work.cancel()

    def _conversation(self, backend: Backend, request: HostRequest) -> Conversation | Outcome:
        """A new one, or the one that waits for what this request brings."""
        try:
            kept = self._waiting.take(request)
            if kept is not None:
                return kept
            return self._waiting.begin(backend, request)
        except MeshError as err:
            return failure_of(err)

    async def _answer(self, send: Send, stream: EventStream, outcome: Outcome, request_id: RequestId) -> None:
        message = outcome.message(request_id)
        if stream.has_begun:
            await stream.event(message)
            await stream.end()
            return
        status = 200
        if outcome.error is not None:
            status = status_of(int(json.loads(outcome.error).get("code", 0)))
        await send_json(send, status, message)

    async def _refuse(self, send: Send, rejection: InboundLadderRejection, request_id: RequestId | None) -> None:
        error = {"code": rejection.code, "message": rejection.message}
        if rejection.data is not None:
            error["data"] = rejection.data
        body = dump_json({"jsonrpc": "2.0", "id": request_id, "error": error})
        await send_json(send, status_of(rejection.code), body)


def _check_arguments(
    backend: Backend, params: Mapping[str, Any], headers: Mapping[str, str]
) -> InboundLadderRejection | None:
    """What is wrong with headers that repeat arguments, by the schema of the tool (SEP-2243)."""
    name, arguments = params.get("name"), params.get("arguments") or {}
    schema = backend.schema_with_headers(name) if isinstance(name, str) and isinstance(arguments, dict) else None
    return None if schema is None else validate_mcp_param_headers(schema, arguments, headers)


async def _only_result(backend: Backend, request: HostRequest) -> Outcome:
    """The outcome of a request to which nothing else belongs."""
    try:
        outcome = await backend.serve(request, Nobody())
    except MeshError as err:
        return failure_of(err)
    return _told_here(request, outcome)


def _told_here(request: HostRequest, outcome: Outcome) -> Outcome:
    """An outcome with what the gateway has to say for itself."""
    if request.method == "server/discover" and outcome.result is not None:
        return Outcome(result=_with_versions(outcome.result))
    return outcome


async def _relay(conversation: Conversation, stream: EventStream, subscription: RequestId | None) -> Outcome:
    """Tell the host what there is to be told, up to the outcome."""
    while True:
        said = await conversation.next()
        if isinstance(said, Outcome):
            return said
        method, params = said
        if subscription is not None:
            params = _subscribed(params, subscription)
        await stream.event(notification(method, params))


def _subscribed(params: bytes, subscription: RequestId) -> bytes:
    """Params of a notification with the id of the subscription that the host knows."""
    facts = json.loads(params) if params else {}
    facts["_meta"] = {**(facts.get("_meta") or {}), SUBSCRIPTION_ID: subscription}
    return dump_json(facts)


def _with_versions(result: bytes) -> bytes:
    """What a server says of itself, with the revisions that are spoken here."""
    facts = json.loads(result)
    facts["supportedVersions"] = [*MODERN, *HANDSHAKE]
    return dump_json(facts)


def _accepts(accept: str, kind: str) -> bool:
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return bool({kind, f"{kind.partition('/')[0]}/*", "*/*"} & kinds)
