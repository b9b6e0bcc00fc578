"""Asks bridges, through the own sidecar: Ask for what has only a result, Dialog for all else."""

import asyncio
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


class Bridges:
    """One way to all MCP servers of the mesh."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def ask(self, server: str, request: pb.AskRequest, caller: Caller, *, timeout: float) -> Outcome:
        """The outcome of a request that nothing else belongs to. Raises MeshError when the server cannot be asked."""
        async with self._channels.use(server) as channel:
            call = channel.unary_unary(
                f"{_SERVICE}/Ask",
                request_serializer=pb.AskRequest.SerializeToString,
                response_deserializer=pb.AskResponse.FromString,
            )
            try:
                return _outcome(await call(request, timeout=timeout, metadata=_metadata(caller)))
            except grpc.aio.AioRpcError as err:
                raise error_of(server, err) from err

    async def talk(
        self, server: str, request: pb.AskRequest, caller: Caller, host: Host, *, timeout: float | None
    ) -> Outcome:
        """The outcome of a request; what belongs to it goes to the host as it comes. Raises as `ask` does."""
        async with self._channels.use(server) as channel:
            open_call: Any = channel.stream_stream(
                f"{_SERVICE}/Dialog",
                request_serializer=pb.DialogRequest.SerializeToString,
                response_deserializer=pb.DialogResponse.FromString,
            )
            call = open_call(timeout=timeout, metadata=_metadata(caller))
            try:
                async with asyncio.TaskGroup() as asking:
                    questions: list[asyncio.Task[None]] = []
                    try:
                        return await self._follow(call, request, host, asking, questions)
                    finally:
                        for each in questions:
                            each.cancel()
            except* grpc.aio.AioRpcError as group:
                raise error_of(server, _first(group)) from group
            finally:
                call.cancel()

    async def _follow(
        self,
        call: Any,
        request: pb.AskRequest,
        host: Host,
        asking: asyncio.TaskGroup,
        questions: list[asyncio.Task[None]],
    ) -> Outcome:
        await call.write(pb.DialogRequest(request=request))
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
