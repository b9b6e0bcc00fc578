"""Asks bridges, through the own sidecar: Ask for what has only a result, Dialog for all else."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import grpc

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from mesh.errors import DeadlineExceeded, MeshError, Unavailable
from mesh.rpc import error_from_rpc
from mesh.rpc.context import USER_TOKEN
from services.gateway.channels import Channels
from services.gateway.web.caller import Caller
from services.gateway.web.mcp.backend import Host
from services.gateway.web.mcp.wire import Outcome, failure

_SERVICE = "/agentmesh.mcp.v1.McpBridgeService"
_BROKEN = -32603
_END_SECONDS = 2.0
_EARLY_SECONDS = 1.1
_RESET_SECONDS = 0.05


class Bridges:
    """One way to all MCP servers of the mesh."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._ending: set[asyncio.Task[None]] = set()
        self._next_reset: dict[str, float] = {}

    async def ask(self, server: str, request: pb.AskRequest, caller: Caller, *, timeout: float) -> Outcome:
        """The outcome of a request that nothing else belongs to. Raises MeshError when the server cannot be asked."""
        async with self._channels.use(server) as channel:
            open_call: Any = channel.unary_unary(
                f"{_SERVICE}/Ask",
                request_serializer=pb.AskRequest.SerializeToString,
                response_deserializer=pb.AskResponse.FromString,
            )
            loop = asyncio.get_running_loop()
            began, is_over = loop.time(), loop.create_future()

            def wake(_: object) -> None:
                if not is_over.done():
                    is_over.set_result(None)

            call = open_call(request, timeout=timeout, metadata=_metadata(caller))
            call.add_done_callback(wake)
            try:
                await is_over
                return _outcome(await call)
            except grpc.aio.AioRpcError as err:
                raise error_of(server, err) from err
            finally:
                self._give_up(server, call, began)

    async def talk(
        self,
        server: str,
        request: pb.AskRequest,
        caller: Caller,
        host: Host,
        *,
        timeout: float | None,
        can_ask: bool = False,
    ) -> Outcome:
        """The outcome of a request; what belongs to it goes to the host as it comes. Raises as `ask` does.

        With `can_ask` the server may ask the host something.
        """
        async with self._channels.use(server) as channel:
            open_call: Any = channel.stream_stream(
                f"{_SERVICE}/Dialog",
                request_serializer=pb.DialogRequest.SerializeToString,
                response_deserializer=pb.DialogResponse.FromString,
            )
            began = asyncio.get_running_loop().time()
            call = open_call(timeout=timeout, metadata=_metadata(caller))
            outcome: Outcome | None = None
            try:
                async with asyncio.TaskGroup() as asking:
                    questions: list[asyncio.Task[None]] = []
                    try:
                        outcome = await self._follow(call, request, host, asking, questions, can_ask=can_ask)
                    finally:
                        for each in questions:
                            each.cancel()
            except* grpc.aio.AioRpcError as group:
                raise error_of(server, _first(group)) from group
            finally:
                if outcome is None:
                    self._give_up(server, call, began)
        # Nobody has to wait for the end, but it must come: a stream that is only dropped is reset.
        ending = asyncio.create_task(self._end(server, call, began))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return outcome

    async def _end(self, server: str, call: Any, began: float) -> None:
        """Let a dialog end by itself, as it does soon once its outcome is said."""
        async with self._channels.use(server):
            try:
                with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
                    async with asyncio.timeout(_END_SECONDS):
                        await call.done_writing()
                        async for _ in call:
                            pass
            finally:
                self._give_up(server, call, began)

    def _give_up(self, server: str, call: Any, began: float) -> None:
        """Cancel a call that still runs: not in its first second, and not too many at a time.

        One connection carries the calls of all, and a sidecar closes it when streams are reset too often: Envoy when
        most are in their first second, its nghttp2 beyond 33 in a second. Clients that cancel much would take the calls
        of others along. Source: https://nghttp2.org/documentation/nghttp2_option_set_stream_reset_rate_limit.html
        """
        if call.done():
            return
        loop = asyncio.get_running_loop()
        when = max(loop.time(), began + _EARLY_SECONDS, self._next_reset.get(server, 0.0))
        self._next_reset[server] = when + _RESET_SECONDS
        loop.call_at(when, call.cancel)

    async def _follow(
        self,
        call: Any,
        request: pb.AskRequest,
        host: Host,
        asking: asyncio.TaskGroup,
        questions: list[asyncio.Task[None]],
        *,
        can_ask: bool,
    ) -> Outcome:
        await call.write(pb.DialogRequest(request=request))
        if not can_ask:
            await call.done_writing()
        async for said in call:
            match said.WhichOneof("message"):
                case "notification":
                    await host.tell(said.notification.method, said.notification.params)
                case "question":
                    questions.append(asking.create_task(_answer(call, said.question, host)))
                case "outcome":
                    return _outcome(said.outcome)
        return failure(_BROKEN, "The server ended the dialog without an outcome.")


async def _answer(call: Any, question: pb.DialogQuestion, host: Host) -> None:
    outcome = await host.ask(question.method, question.params)
    answer = pb.DialogAnswer(id=question.id)
    if outcome.error is not None:
        answer.error = outcome.error
    else:
        answer.result = outcome.result or b"{}"
    await call.write(pb.DialogRequest(answer=answer))


def _outcome(response: pb.AskResponse) -> Outcome:
    if response.WhichOneof("outcome") == "error":
        return Outcome(error=response.error)
    return Outcome(result=response.result or b"{}")


def _metadata(caller: Caller) -> tuple[tuple[str, str], ...]:
    made: Mapping[str, str] = {
        USER_TOKEN: caller.token,
        "x-correlation-id": caller.correlation_id,
        "traceparent": caller.trace,
    }
    return tuple((name, value) for name, value in made.items() if value)


def _first(group: BaseExceptionGroup[grpc.aio.AioRpcError]) -> grpc.aio.AioRpcError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, grpc.aio.AioRpcError)
    return error


def error_of(server: str, error: grpc.aio.AioRpcError) -> MeshError:
    """What a host is told of a server that cannot be asked: its own words, but not those of proxies and sockets."""
    made = error_from_rpc(error)
    if made.service:
        return made
    if isinstance(made, DeadlineExceeded):
        return DeadlineExceeded(
            f"{server} has not answered in time.", service=server, fix="Try again, or ask for less."
        )
    if isinstance(made, Unavailable):
        return Unavailable(f"{server} cannot be reached at the moment.", service=server, fix="Try again.")
    return type(made)(f"{server} does not answer: {made.summary}", reason=made.reason, service=server)
