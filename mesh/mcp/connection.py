"""One open, negotiated connection to an MCP server, and the requests that are made over it.

Requests carry plain JSON values: the SDK's result models would drop fields and refuse kinds of content that they do not
know. The SDK gives the dispatcher (ids, concurrency, cancellation, progress), the handshake and the transports.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio.abc
from mcp.client.session import ClientSession, IncomingMessage
from mcp.shared.dispatcher import CallOptions, OnNotify, OnNotifyIntercept, OnRequest, ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CONNECTION_CLOSED,
    HEADER_MISMATCH,
    Implementation,
    LoggingMessageNotificationParams,
    PromptListChangedNotification,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    ToolListChangedNotification,
)
from pydantic import ValidationError

import mesh
from mesh.errors import FailedPrecondition, MeshError, NotFound, Unavailable
from mesh.mcp.calls import LogNews, RunningCall, RunningCalls
from mesh.mcp.changes import ChangeFeed, ListChanged, ResourceChanged
from mesh.mcp.envelope import Envelope
from mesh.mcp.faults import error_from_mcp, input_wanted, too_late, unreadable
from mesh.mcp.frames import UNREADABLE, dump_json, load_json_object
from mesh.mcp.negotiate import Era, negotiate
from mesh.mcp.noise import NoiseLog
from mesh.mcp.requests.exchange import Listener, Lost, Outcome, Request, Unreadable
from mesh.mcp.wire import OpenWire, Wire

NOT_READY = "MCP_SERVER_NOT_READY"
LOST = "MCP_SERVER_LOST"

_LISTEN = "subscriptions/listen"
"""Goes on for as long as somebody listens, and no log message belongs to it."""

CLIENT = Implementation(name="agentmesh", version=mesh.__version__)
# What the SDK says for an HTTP status without a JSON-RPC error; the status itself it does not tell.
_HTTP_REFUSALS = ("Server returned an error response", "Not Found")
_MAX_ROUNDS = 10
_MAX_PAGES = 50
_LOOK_UP_TIMEOUT = 5.0
_NO_HEADERS: Mapping[str, str] = {}


class _Dispatcher(JSONRPCDispatcher[TransportContext]):
    """The SDK's dispatcher, which also tells when the connection is over and keeps the server's first answer raw."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire.read, wire.write)
        self.ended = asyncio.Event()
        self.hello: dict[str, Any] = {}

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,
        *,
        _related_request_id: str | int | None = None,
    ) -> dict[str, Any]:
        result = await super().send_raw_request(method, params, opts, _related_request_id=_related_request_id)
        if method in ("initialize", "server/discover"):
            self.hello = result
        return result

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await super().run(on_request, on_notify, on_notify_intercept, task_status=task_status)
        finally:
            self.ended.set()


class Connection:
    """A connection over which any number of requests run at the same time."""

    def __init__(self, server: str, wire: Wire) -> None:
        self.server = server
        self.calls = RunningCalls()
        self.feed = ChangeFeed()
        self.subscriptions: dict[str, int] = {}
        self.subscriptions_lock = asyncio.Lock()
        self.log_level: str | None = None
        self.answers = 0
        self._wire = wire
        self._noise = NoiseLog(server)
        self._dispatcher = _Dispatcher(wire)
        self.session = ClientSession(
            dispatcher=self._dispatcher,
            client_info=CLIENT,
            logging_callback=self._on_log,
            message_handler=self._on_message,
        )
        wire.exchange.on_notify = self._on_notify
        self._lost_why = ""
        self._lost_known = asyncio.Event()
        self._envelope = Envelope(CLIENT, Era.HANDSHAKE, "", self._noise)

    async def negotiate(self, last_era: Era | None, probe_timeout: float) -> None:
        """Open the session in the newest era that the server speaks; raises as `negotiate` of that module does."""
        era = await negotiate(self.session, last_era=last_era, probe_timeout=probe_timeout)
        self._envelope = Envelope(CLIENT, era, self.session.protocol_version or "", self._noise)

    @property
    def era(self) -> Era:
        """The era that the server speaks."""
        return self._envelope.era

    @property
    def hello(self) -> dict[str, Any]:
        """The result of `initialize` or `server/discover`, as the server sent it."""
        return self._dispatcher.hello

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the server offers."""
        found = self.hello.get("capabilities")
        return found if isinstance(found, dict) else {}

    @property
    def is_over(self) -> bool:
        """True once nothing can be asked over it any more."""
        return self._dispatcher.ended.is_set()

    async def wait_over(self) -> MeshError:
        """Wait until the connection is over; give the error for everybody who still used it."""
        await self._dispatcher.ended.wait()
        await self._wire.settle()
        return self.end()

    def end(self, why: str = "") -> MeshError:
        """Mark the connection as over; give the error that its users get. The first reason stays."""
        self._lost_why = self._lost_why or why or self._wire.describe()
        self._dispatcher.ended.set()
        self._lost_known.set()
        self.feed.end(self._lost_error)
        return self._lost_error()

    async def request(
        self, method: str, params: dict[str, Any], *, timeout: float, on_progress: ProgressFnT | None = None
    ) -> dict[str, Any]:
        """Send a request and return its result as the server sent it; cancelling cancels it at the server.

        Raises DeadlineExceeded after `timeout` seconds, Unavailable when the connection ends, else what
        `error_from_mcp` makes of the server's error.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._settle(method, params, on_progress)
        except TimeoutError:
            raise too_late(self.server, method, timeout) from None
        except MCPError as err:
            raise await self._error_of(err, method) from err

    async def ask(
        self, request: Request, call: RunningCall, listener: Listener | None = None, *, timeout: float
    ) -> Outcome:
        """Send a request of the modern era as it is and return its outcome; cancelling cancels it at the server.

        `call` is told log messages where the transport does not tell whose they are, `listener` all the rest. Raises
        DeadlineExceeded after `timeout` seconds, Unavailable when the connection ends, ResourceExhausted for an answer
        that cannot be read.
        """
        try:
            async with asyncio.timeout(timeout):
                if self._wire.is_http:
                    outcome = await self._ask_mirrored(request, listener)
                else:
                    with self.calls.running(call) if request.method != _LISTEN else contextlib.nullcontext():
                        outcome = await self._wire.exchange.ask(request, _NO_HEADERS, listener)
        except TimeoutError:
            raise too_late(self.server, request.method, timeout) from None
        except Lost:
            raise await self._wait_lost() from None
        except Unreadable as err:
            raise unreadable(self.server, request.method, str(err)) from None
        self.answers += 1
        return outcome

    async def _ask_mirrored(self, request: Request, listener: Listener | None) -> Outcome:
        """Ask with the HTTP headers that mirror the request, learning those that tools want."""
        exchange, method = self._wire.exchange, request.method
        outcome = await exchange.ask(request, self._envelope.headers(method, request.params), listener)
        if method == "tools/list" and outcome.parsed is not None:
            self._envelope.learn_all(outcome.parsed)
        if method == "tools/call" and outcome.error and load_json_object(outcome.error).get("code") == HEADER_MISMATCH:
            await self._learn_headers(request)
            outcome = await exchange.ask(request, self._envelope.headers(method, request.params), listener)
        return outcome

    async def _learn_headers(self, request: Request) -> None:
        """List the tools until the one that is called has been seen."""
        params: dict[str, Any] = {"_meta": request.meta}
        for _ in range(_MAX_PAGES):
            listing = Request("tools/list", dump_json(params), params)
            headers = self._envelope.headers("tools/list", params)
            result = (await self._wire.exchange.ask(listing, headers, None)).parsed
            if result is None:
                return
            self._envelope.learn_all(result)
            if not result.get("nextCursor") or self._envelope.knows(request.params.get("name")):
                return
            params = {**params, "cursor": result["nextCursor"]}

    async def list_tools(self, params: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """Send `tools/list`; leaves out tools that the specification forbids to use, and learns their HTTP headers.

        https://modelcontextprotocol.io/specification/2026-07-28/basic/transports (custom headers, SEP-2243).
        """
        result = await self.request("tools/list", params, timeout=timeout)
        self._envelope.learn(result)
        return result

    async def check_listed(self, kind: Literal["tool", "prompt"], name: str, *, timeout: float) -> None:
        """Raise NotFound when the server does not list a tool or prompt of that name; say nothing when it is not sure.

        For servers that answer an unknown name with an error that could mean anything.
        """
        method, key = f"{kind}s/list", f"{kind}s"
        params: dict[str, Any] = {}
        for _ in range(_MAX_PAGES):
            try:
                result = await self.request(method, params, timeout=min(timeout, _LOOK_UP_TIMEOUT))
            except MeshError:
                return
            entries = result.get(key)
            if not isinstance(entries, list):
                return
            if any(isinstance(entry, dict) and entry.get("name") == name for entry in entries):
                return
            cursor = result.get("nextCursor")
            if not cursor:
                raise NotFound(
                    f"MCP server {self.server!r} has no {kind} {name!r}.",
                    reason=f"MCP_UNKNOWN_{kind.upper()}",
                    field="name",
                    fix=f"List{kind.capitalize()}s tells the names.",
                )
            params = {"cursor": cursor}

    async def _settle(self, method: str, params: dict[str, Any], on_progress: ProgressFnT | None) -> dict[str, Any]:
        """Ask until there is a result: a server may want to be asked again, or with the headers of a newer schema."""
        delay = 0.05
        has_relisted = False
        for _ in range(_MAX_ROUNDS):
            try:
                result = await self._send(method, params, on_progress)
            except MCPError as err:
                if err.code != HEADER_MISMATCH or method != "tools/call" or has_relisted:
                    raise
                has_relisted = True
                self._envelope.learn(await self._send("tools/list", {}, None))
                continue
            if result.get("resultType") != "input_required":
                return result
            if result.get("inputRequests"):
                raise input_wanted(self.server, method)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)
            params = {**params, "requestState": result.get("requestState")}
        raise FailedPrecondition(
            f"MCP server {self.server!r} wanted {method} to be sent again {_MAX_ROUNDS} times.",
            reason="MCP_INPUT_REQUIRED",
        )

    async def _send(self, method: str, params: dict[str, Any], on_progress: ProgressFnT | None) -> dict[str, Any]:
        if self._lost_why:
            raise self._lost_error()
        params, headers = self._envelope.stamp(method, params)
        options: CallOptions = {"headers": headers}
        if on_progress is not None:
            options["on_progress"] = on_progress
        result = await self._dispatcher.send_raw_request(method, params, options)
        self.answers += 1
        return result

    async def _error_of(self, err: MCPError, method: str) -> MeshError:
        if err.code == CONNECTION_CLOSED and await self._is_ending():
            return await self._wait_lost()
        if self._wire.is_forgotten():
            return self.end("it does not know the session any more")
        if self._wire.is_http and err.message.startswith(("Failed to parse", "SSE stream failed")):
            # The SDK's words for an answer that it could not read, be it too large or not JSON.
            err = MCPError(err.code, f"it could not be read: {err.message}", UNREADABLE)
        error = error_from_mcp(err, server=self.server, method=method)
        if self._wire.is_http and err.message in _HTTP_REFUSALS:
            error.fix = f"It said: {self._wire.describe()}."
        return error

    async def _is_ending(self) -> bool:
        """Tell whether a closed call was closed with the whole connection: the dispatcher tells its calls first."""
        try:
            async with asyncio.timeout(0.5):
                await self._dispatcher.ended.wait()
        except TimeoutError:
            return False
        return True

    async def _wait_lost(self) -> MeshError:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await self._lost_known.wait()
        return self._lost_error()

    def _lost_error(self) -> MeshError:
        why = self._lost_why or self._wire.describe()
        return Unavailable(
            f"MCP server {self.server!r} is gone: {why}.", reason=LOST, fix="The bridge restarts it; call again."
        )

    async def _on_log(self, params: LoggingMessageNotificationParams) -> None:
        said = params.model_dump(mode="json", by_alias=True, exclude_unset=True)
        self.calls.log(LogNews(params.level, params.logger or "", params.data, said))

    def _on_notify(self, method: str, params: dict[str, Any]) -> bool:
        """Take log messages here, since on the way through the SDK the answer would overtake them."""
        level, logger = params.get("level"), params.get("logger")
        if method != "notifications/message" or not isinstance(level, str) or "data" not in params:
            return False
        self.calls.log(LogNews(level, logger if isinstance(logger, str) else "", params["data"], params))
        return True

    async def _on_message(self, message: IncomingMessage) -> None:
        match message:
            case ToolListChangedNotification():
                self.feed.publish(ListChanged("tools"))
            case ResourceListChangedNotification():
                self.feed.publish(ListChanged("resources"))
            case PromptListChangedNotification():
                self.feed.publish(ListChanged("prompts"))
            case ResourceUpdatedNotification(params=params):
                self.feed.publish(ResourceChanged(params.uri))
            case Exception():
                self._noise.warn("mcp_transport_fault", error=str(message)[:200])
            case _:
                pass


@asynccontextmanager
async def open_connection(
    server: str, open_wire: OpenWire, *, last_era: Era | None, start_timeout: float
) -> AsyncIterator[Connection]:
    """Connect and negotiate within `start_timeout` seconds.

    Raises Unavailable, perhaps within an exception group (see `leaf_of`), when the server does not get that far, and
    what `open_wire` raises.
    """
    async with open_wire() as wire:
        connection = Connection(server, wire)
        async with connection.session:
            try:
                async with asyncio.timeout(start_timeout):
                    await connection.negotiate(last_era, start_timeout / 3)
            except TimeoutError:
                raise _not_ready(server, f"it has not finished the handshake within {start_timeout:.3g} s") from None
            except MCPError as err:
                if err.code == CONNECTION_CLOSED or (wire.is_http and err.message in _HTTP_REFUSALS):
                    await wire.settle()
                    why = wire.describe()
                else:
                    why = f"it refused the handshake: {err.message}"
                raise _not_ready(server, why) from err
            except (RuntimeError, ValidationError) as err:
                why = str(err).splitlines()[0]
                raise _not_ready(server, f"its handshake does not fit the protocol: {why}") from err
            try:
                yield connection
            finally:
                connection.end()


def _not_ready(server: str, why: str) -> Unavailable:
    return Unavailable(f"Starting MCP server {server!r} failed: {why}.", reason=NOT_READY)
