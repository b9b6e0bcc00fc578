"""Requests that run, and those of them in which a server waits for an answer that the host gives with its next request.

    host --request--> Conversation == task: Backend.serve(..., host=Conversation) ==> server
         <-- input_required, requestState --          asks something
    host --same request + inputResponses, requestState--> the same Conversation goes on

Only servers of the handshake era need this: those of the modern era keep what they need in `requestState` themselves.
"""

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from mesh.errors import InvalidInput, MeshError, ResourceExhausted
from mesh.mcp.frames import dump_json
from services.gateway.web.mcp.backend import Backend, HostRequest
from services.gateway.web.mcp.sessions import Sealer
from services.gateway.web.mcp.wire import Outcome, failure_of

_KEPT_SECONDS = 600.0
_MOST = 1024
_MOST_OF_ONE = 16
_PURPOSE = "mcp waiting"
_PREFIX = "am1."

News = tuple[str, bytes]


class Conversation:
    """One request while it runs; a `Host` to the backend."""

    def __init__(self, request: HostRequest) -> None:
        self.request = request
        self.key = os.urandom(9).hex()
        self.kept_until = 0.0
        self._news: asyncio.Queue[News | Outcome] = asyncio.Queue(64)
        self._asked: dict[str, tuple[str, bytes, asyncio.Future[Outcome]]] = {}
        self._task: asyncio.Task[Outcome] | None = None
        self._numbers = 0
        self._keep: Callable[[Conversation], str] = lambda _: ""

    def start(self, backend: Backend, keep: Callable[["Conversation"], str]) -> None:
        """Let it run; `keep` gives the state that a host brings back."""
        self._keep = keep
        self._task = asyncio.create_task(self._run(backend))

    async def _run(self, backend: Backend) -> Outcome:
        try:
            return await backend.serve(self.request, self)
        except MeshError as err:
            return failure_of(err)

    async def tell(self, method: str, params: bytes) -> None:
        """Pass on a notification, as fast as the host takes them."""
        await self._news.put((method, params))

    async def ask(self, method: str, params: bytes) -> Outcome:
        """Ask with the answer to the request at hand, and wait for the next one."""
        self._numbers += 1
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        key = f"question-{self._numbers}"
        self._asked[key] = (method, params, future)
        try:
            await self._news.put(self._input_required())
            return await future
        except MeshError as err:
            return failure_of(err)
        finally:
            self._asked.pop(key, None)

    async def next(self) -> News | Outcome:
        """What comes next: a notification, or what ends the answer to the request at hand."""
        assert self._task is not None
        if self._news.empty() and not self._task.done():
            getting = asyncio.ensure_future(self._news.get())
            try:
                await asyncio.wait({getting, self._task}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    return getting.result()
            finally:
                getting.cancel()
        if not self._news.empty():
            return self._news.get_nowait()
        return self._task.result()

    def resume(self, answers: Mapping[str, Any]) -> None:
        """Give answers to what was asked. Raises InvalidInput when one is missing."""
        missing = [key for key in self._asked if key not in answers]
        if missing:
            raise InvalidInput(
                f"There is no answer to {', '.join(missing)}.", field="params.inputResponses", fix="Answer all."
            )
        for key, (_, _, future) in list(self._asked.items()):
            if not future.done():
                future.set_result(Outcome(result=dump_json(answers[key])))

    def cancel(self) -> None:
        """Give it up."""
        if self._task is not None:
            self._task.cancel()

    def _input_required(self) -> Outcome:
        requests = {
            key: {"method": method, **({"params": json.loads(params)} if params else {})}
            for key, (method, params, _) in self._asked.items()
        }
        result = {"resultType": "input_required", "inputRequests": requests, "requestState": self._keep(self)}
        return Outcome(result=dump_json(result))


class WaitingRoom:
    """Begins conversations and finds those that wait; bounded in number, in all and for each principal."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._kept: OrderedDict[str, Conversation] = OrderedDict()

    def begin(self, backend: Backend, request: HostRequest) -> Conversation:
        """Let a request run."""
        conversation = Conversation(request)
        conversation.start(backend, self._keep)
        return conversation

    def take(self, request: HostRequest) -> Conversation | None:
        """The conversation that a request goes on with; None when it is a new one.

        Raises InvalidInput for a state of ours that is none, is over or belongs to somebody else.
        """
        state = request.params.get("requestState")
        if not isinstance(state, str) or not state.startswith(_PREFIX):
            return None
        facts = self._sealer.open(state.removeprefix(_PREFIX), _PURPOSE)
        kept = self._kept.get(facts["k"]) if facts is not None else None
        if kept is None or facts is None or facts["w"] != _whose(request):
            raise InvalidInput(
                "Nothing waits for this state here any more.", field="params.requestState", fix="Make the call anew."
            )
        answers = request.params.get("inputResponses")
        kept.resume(answers if isinstance(answers, dict) else {})
        del self._kept[kept.key]
        return kept

    def close(self) -> None:
        """Give up all."""
        for conversation in self._kept.values():
            conversation.cancel()
        self._kept.clear()

    def _keep(self, conversation: Conversation) -> str:
        whose = _whose(conversation.request)
        if sum(_whose(it.request) == whose for it in self._kept.values()) >= _MOST_OF_ONE or len(self._kept) >= _MOST:
            raise ResourceExhausted(
                "Too many questions wait for answers.", reason="MCP_TOO_MANY_WAITING", fix="Answer them first."
            )
        self._kept[conversation.key] = conversation
        loop = asyncio.get_running_loop()
        conversation.kept_until = loop.time() + _KEPT_SECONDS
        loop.call_at(conversation.kept_until, self._expire, conversation, conversation.kept_until)
        return _PREFIX + self._sealer.seal({"k": conversation.key, "w": whose}, _PURPOSE)

    def _expire(self, conversation: Conversation, when: float) -> None:
        # It may have gone on, and be kept anew since.
        if self._kept.get(conversation.key) is conversation and conversation.kept_until == when:
            del self._kept[conversation.key]
            conversation.cancel()


def _whose(request: HostRequest) -> str:
    return f"{request.caller.principal}\0{request.door}\0{request.method}\0{request.name}"
