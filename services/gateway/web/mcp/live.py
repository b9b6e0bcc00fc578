"""What a gateway knows of a session while the session is used here: what runs, what is asked, who listens."""

import asyncio
import itertools
import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from mesh.mcp.frames import dump_json
from services.gateway.web.mcp.answer import EventStream
from services.gateway.web.mcp.wire import INTERNAL_ERROR, Outcome, RequestId, failure, notification, question

_ANSWER_SECONDS = 3600.0
_MOST_PENDING = 256
_MOST_HELD = 64
_IDLE_SECONDS = 900.0


class LiveSession:
    """Belongs to one gateway: subscriptions and the log level do not go along with a session that moves to another."""

    def __init__(self) -> None:
        self.used_at = 0.0
        self.log_level = ""
        self.subscriptions: set[str] = set()
        self.stream: EventStream | None = None
        """The stream that a host holds open for what belongs to no request."""
        self.listener: asyncio.Task[None] | None = None
        self.running: dict[RequestId, asyncio.Task[Any]] = {}
        self._pending: dict[RequestId, asyncio.Future[Outcome]] = {}
        self._numbers = itertools.count(1)
        self._held: deque[bytes] = deque(maxlen=_MOST_HELD)

    @property
    def is_busy(self) -> bool:
        """Whether something of it goes on."""
        return bool(self.running or self._pending or self.stream is not None)

    async def ask(self, stream: EventStream, method: str, params: bytes) -> Outcome:
        """Ask the host on the stream of the request that the question belongs to, and wait for its answer."""
        if len(self._pending) >= _MOST_PENDING:
            return failure(INTERNAL_ERROR, "The host has left too many questions unanswered.")
        request_id = f"mesh-{next(self._numbers)}"
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        try:
            await stream.event(question(request_id, method, params))
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await future
        except TimeoutError:
            return failure(INTERNAL_ERROR, "The host has not answered.")
        finally:
            self._pending.pop(request_id, None)

    def take_answer(self, frame: dict[str, Any]) -> bool:
        """Take the host's answer to a question; tells whether there was such a question."""
        future = self._pending.get(frame["id"])
        if future is None or future.done():
            return False
        if "error" in frame:
            future.set_result(Outcome(error=dump_json(frame["error"])))
        else:
            future.set_result(Outcome(result=dump_json(frame["result"])))
        return True

    async def tell(self, method: str, params: bytes) -> None:
        """Tell the host something that belongs to no request; held for a while when it does not listen."""
        message = notification(method, params)
        if self.stream is None:
            self._held.append(message)
        else:
            await self.stream.event(message)

    async def listen(self, stream: EventStream) -> None:
        """Let the host listen on a stream, in the place of any other."""
        before, self.stream = self.stream, stream
        if before is not None:
            await before.end()
        while self._held:
            await stream.event(self._held.popleft())

    def cancel(self, request_id: RequestId) -> None:
        """Stop a request that the host gives up: one that is found in `running` no more when it is cancelled."""
        task = self.running.pop(request_id, None)
        if task is not None:
            task.cancel()

    def end(self) -> None:
        """Stop all that goes on."""
        for request_id in tuple(self.running):
            self.cancel(request_id)
        if self.listener is not None:
            self.listener.cancel()


class LiveSessions:
    """All that are used here; those that nobody has used for a time are forgotten."""

    def __init__(self, *, most: int = 20_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._live: OrderedDict[str, LiveSession] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def of(self, key: str) -> LiveSession:
        """The live part of a session."""
        live = self._live.get(key)
        if live is None:
            self._forget_idle()
            live = self._live[key] = LiveSession()
        live.used_at = self._clock()
        self._live.move_to_end(key)
        return live

    def has_ended(self, key: str) -> bool:
        """Whether the host has ended the session."""
        return key in self._ended

    def end(self, key: str) -> None:
        """End a session for good."""
        self._ended[key] = None
        if len(self._ended) > self._most:
            self._ended.popitem(last=False)
        live = self._live.pop(key, None)
        if live is not None:
            live.end()

    def close(self) -> None:
        """End all that goes on."""
        for live in self._live.values():
            live.end()
        self._live.clear()

    def _forget_idle(self) -> None:
        now = self._clock()
        for key, live in list(itertools.islice(self._live.items(), 8)):
            if not live.is_busy and (now - live.used_at > _IDLE_SECONDS or len(self._live) >= self._most):
                live.end()
                del self._live[key]


def without_subscription(params: bytes) -> bytes:
    """Params of a notification without what only hosts of the modern era know."""
    if b"subscriptionId" not in params:
        return params
    facts = json.loads(params)
    meta = facts.get("_meta")
    if isinstance(meta, dict):
        kept = {name: value for name, value in meta.items() if name != "io.modelcontextprotocol/subscriptionId"}
        facts["_meta"] = kept
        if not kept:
            del facts["_meta"]
    return dump_json(facts)
