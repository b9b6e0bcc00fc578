"""What is said in one dialog while its request runs: to the caller in order, and answers back to the server."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from mesh.errors import InvalidInput
from mesh.mcp.calls import LogNews, is_heavy_enough
from mesh.mcp.frames import INTERNAL_ERROR, dump_json, load_json_object
from mesh.mcp.requests.session import Session

MAX_PENDING = 256
MAX_QUESTIONS = 64

_OVER = {"code": INTERNAL_ERROR, "message": "The request that this belonged to is over."}


class Dialog:
    """The notifications and questions that the caller has not read yet, and the questions that it has not answered.

    Holds 256 notifications at most: when the caller does not keep up, the oldest goes and `dropped` counts it. Of
    questions 64 may be open; the server is refused more.
    """

    def __init__(self, caller: str, log_level: str | None) -> None:
        self.caller = caller
        self.log_level = log_level
        self.dropped = 0
        self._pending: deque[pb.DialogResponse] = deque()
        self._notifications = 0
        self._wake = asyncio.Event()
        self._is_closed = False
        self._session: Session | None = None
        self._open: dict[str, str | int] = {}
        self._asked = 0

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Take a notification of the server."""
        if method == "notifications/cancelled":
            # The server takes back a question, by its own number.
            found = next((name for name, number in self._open.items() if number == params.get("requestId")), None)
            if found is None:
                return
            del self._open[found]
            params = {**params, "requestId": found}
        if self._notifications >= MAX_PENDING:
            self._drop_oldest()
        self._notifications += 1
        notification = pb.DialogNotification(method=method, params=dump_json(params) if params else b"")
        self._put(pb.DialogResponse(notification=notification))

    def wants(self, level: str) -> bool:
        """Tell whether the caller asked for log messages of this weight."""
        return is_heavy_enough(level, self.log_level)

    def put(self, news: LogNews) -> None:
        """Take a log message that came over a connection with others."""
        self.notify("notifications/message", news.params)

    def attach(self, session: Session, *, can_be_asked: bool) -> None:
        """Listen to a session of the handshake era; with `can_be_asked` its questions are for this dialog."""
        session.listeners.add(self)
        if can_be_asked:
            self._session = session
            session.question = self._ask

    async def detach(self, session: Session) -> None:
        """Stop listening; what has not been answered is refused, so that the server does not wait for it."""
        session.listeners.discard(self)
        if self._session is None:
            return
        session.question = None
        while self._open:
            _, number = self._open.popitem()
            await session.answer(number, "error", dump_json(_OVER))

    async def take_answers(self, messages: AsyncIterator[pb.DialogRequest]) -> None:
        """Give the caller's answers to the server until there are no more. Raises InvalidInput for other messages."""
        async for message in messages:
            if message.WhichOneof("message") != "answer":
                raise InvalidInput("The request of a dialog comes first, and only once.", field="request")
            answer = message.answer
            kind = answer.WhichOneof("outcome")
            if kind is None:
                raise InvalidInput("It is neither a result nor an error.", field="answer")
            text = answer.result if kind == "result" else answer.error
            try:
                load_json_object(text)
            except ValueError as err:
                raise InvalidInput(f"The bytes are not a JSON object: {err}.", field=f"answer.{kind}") from None
            number = self._open.pop(answer.id, None)
            # An answer to what has been taken back meanwhile goes nowhere.
            if number is not None and self._session is not None:
                await self._session.answer(number, kind, (text or b"{}").replace(b"\r", b" ").replace(b"\n", b" "))

    def close(self) -> None:
        """Let `next` return None once everything has been taken."""
        self._is_closed = True
        self._wake.set()

    async def next(self) -> pb.DialogResponse | None:
        """Wait for what comes next; None after the last."""
        while not self._pending:
            if self._is_closed:
                return None
            self._wake.clear()
            await self._wake.wait()
        taken = self._pending.popleft()
        if taken.HasField("notification"):
            self._notifications -= 1
        return taken

    def _ask(self, number: str | int, method: str, params: dict[str, Any]) -> bool:
        if len(self._open) >= MAX_QUESTIONS:
            return False
        self._asked += 1
        name = str(self._asked)
        self._open[name] = number
        question = pb.DialogQuestion(id=name, method=method, params=dump_json(params) if params else b"")
        self._put(pb.DialogResponse(question=question))
        return True

    def _put(self, response: pb.DialogResponse) -> None:
        self._pending.append(response)
        self._wake.set()

    def _drop_oldest(self) -> None:
        for at, response in enumerate(self._pending):
            if response.HasField("notification"):
                del self._pending[at]
                self._notifications -= 1
                self.dropped += 1
                return
