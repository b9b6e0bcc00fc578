"""The caller's end of Link: lets the SDK's own clients speak to an MCP server through the mesh."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import grpc.aio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from agentmesh.mcp.v1 import mcp_bridge_service_pb2_grpc as pb_grpc
from agentmesh.mcp.v1 import mcp_pb2
from mesh.rpc import error_from_rpc

_Call = grpc.aio.StreamStreamCall[pb.LinkRequest, pb.LinkResponse]


@asynccontextmanager
async def open_link_transport(channel: grpc.aio.Channel) -> AsyncIterator[TransportStreams]:
    """Open an MCP connection over a mesh channel; gives the streams that `mcp.ClientSession` and `mcp.Client` take.

        async with open_channel("financial") as channel, mcp.Client(open_link_transport(channel)) as client:
            await client.call_tool("npv", {...})

    When the stream breaks, the MeshError goes to the session's `message_handler` and the read stream ends, so that
    waiting requests fail with CONNECTION_CLOSED. Leaving the context ends the server that served it.
    """
    call: _Call = pb_grpc.McpBridgeServiceStub(channel).Link()
    # Unbuffered in both directions, so that flow control reaches the server.
    read_writer, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, write_reader = anyio.create_memory_object_stream[SessionMessage](0)
    sender = asyncio.create_task(_send(call, write_reader))
    receiver = asyncio.create_task(_receive(call, read_writer))
    try:
        yield read, write
    finally:
        for stream in (read, write):
            stream.close()
        call.cancel()
        for task in (sender, receiver):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _send(call: _Call, source: MemoryObjectReceiveStream[SessionMessage]) -> None:
    """Write the session's messages to the stream; when the session closes, so does this half of the stream."""
    async with source:
        try:
            async for item in source:
                message = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
                metadata = item.metadata
                headers = (metadata.headers if isinstance(metadata, ClientMessageMetadata) else None) or {}
                frame = mcp_pb2.Frame(message=message, headers={name.lower(): value for name, value in headers.items()})
                await call.write(pb.LinkRequest(frame=frame))
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            return  # the receiver tells why


async def _receive(call: _Call, target: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
    """Give the stream's frames to the session."""
    async with target:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            try:
                async for response in call:
                    await target.send(_parse(response.frame.message))
            except grpc.aio.AioRpcError as err:
                await target.send(error_from_rpc(err))


def _parse(message: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(message, by_name=False))
    except ValidationError as err:
        return err
