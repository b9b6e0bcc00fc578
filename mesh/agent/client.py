"""The way of an agent to the rest of the mesh."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from mesh.agent.part import Part
from mesh.agent.remote_task import AgentResult, OnUpdate, RemoteTask
from mesh.agent.tools import OnProgress, ToolInfo, ToolResult, call_tool, list_tools
from mesh.errors import ResourceExhausted, Unavailable
from mesh.rpc import Way, open_channel

TOOL_SECONDS = 60.0
AGENT_SECONDS = 600.0
_MOST_CHANNELS = 256


class MeshClient:
    """Calls services of the mesh by name, through the own sidecar. Made by `open_mesh_client`."""

    def __init__(self, stack: AsyncExitStack, outbound: str | Way | None) -> None:
        self._stack = stack
        self._outbound = outbound
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._opening = asyncio.Lock()
        self._is_closed = False

    async def channel(self, service: str) -> grpc.aio.Channel:
        """The channel to a service, for any typed stub. It is shared and closed with the client: do not close it.

        Opening does not connect. Raises InvalidInput for what is no service name, FailedPrecondition without a sidecar.
        """
        async with self._opening:
            if self._is_closed:
                raise Unavailable("The mesh client is closed.", fix="Use it inside of `open_mesh_client`.")
            channel = self._channels.get(service)
            if channel is None:
                if len(self._channels) >= _MOST_CHANNELS:
                    raise ResourceExhausted(
                        f"{_MOST_CHANNELS} services have a channel already.",
                        reason="TOO_MANY_CHANNELS",
                        fix="Open further ones with mesh.rpc.open_channel, and close them after use.",
                        retryable=False,
                    )
                channel = await self._stack.enter_async_context(open_channel(service, outbound=self._outbound))
                self._channels[service] = channel
            return channel

    async def use_tool(
        self,
        service: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float = TOOL_SECONDS,
        on_progress: OnProgress | None = None,
    ) -> ToolResult:
        """Run a tool of an MCP server and return its result; `timeout` is in seconds.

        Raises FailedPrecondition (reason TOOL_FAILED) with the tool's own words when the tool says that it failed,
        NotFound for an unknown tool, InvalidInput for arguments that the server refuses, Unavailable and
        DeadlineExceeded when the server is not there or is late. Cancelling cancels the tool.
        """
        channel = await self.channel(service)
        return await call_tool(channel, service, tool, arguments, timeout=timeout, on_progress=on_progress)

    async def list_tools(self, service: str, *, timeout: float = TOOL_SECONDS) -> list[ToolInfo]:
        """The tools of an MCP server, in its order; `timeout` is in seconds for each page."""
        return await list_tools(await self.channel(service), service, timeout=timeout)

    async def call_agent(
        self,
        service: str,
        skill: str,
        input: Any,  # noqa: A002 - the word of the contract
        *,
        on_update: OnUpdate | None = None,
        timeout: float = AGENT_SECONDS,
    ) -> AgentResult:
        """Let another agent do a task and return its output; `input` is any value that `Part.of` takes.

        `on_update` is told each update once and in order, also over broken streams, which are taken up again. Raises
        the error of a failed task, Canceled for a cancelled one, DeadlineExceeded after `timeout` seconds. When that
        is raised, or this is cancelled, the task is cancelled at the agent, too.
        """
        task = RemoteTask(await self.channel(service), service, on_update)
        return await task.run(skill, Part.of(input), timeout=timeout)


@asynccontextmanager
async def open_mesh_client(*, outbound: str | Way | None = None) -> AsyncIterator[MeshClient]:
    """A client whose channels are pooled, and closed at the end.

    `outbound` is the target of the sidecar's outbound listener, by default that of the variable MESH_OUTBOUND, or the
    way through an edge.
    """
    async with AsyncExitStack() as stack:
        client = MeshClient(stack, outbound)
        try:
            yield client
        finally:
            client._is_closed = True
