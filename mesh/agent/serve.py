"""An agent as a program."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from agentmesh.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from mesh.agent.agent import Agent
from mesh.agent.board import open_board
from mesh.agent.client import open_mesh_client
from mesh.agent.servicer import AgentServicer
from mesh.errors import InvalidInput
from mesh.model import SpiffeId, check_service_name
from mesh.rpc import ServerSettings, Service, open_server
from mesh.runtime import Stop, open_background, run_program

_DRAIN_MARGIN = 8.0
"""Seconds for streams after the tasks have had theirs: for stubborn handlers, and for the last updates."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The agent's place in the mesh. Empty `service` means the agent's own name; `spiffe_id` may be empty."""

    listen: str
    service: str = ""
    instance: str = ""
    outbound: str | None = None
    spiffe_id: str = ""
    max_concurrent_calls: int = 512

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read what the sidecar's launcher sets; raises InvalidInput that names the variable at fault."""
        listen = environment.get("MESH_LISTEN") or ""
        if not listen:
            raise InvalidInput(
                "It is not said where to listen.",
                field="MESH_LISTEN",
                fix="Start it with `meshctl run agent`, or set it to unix:/PATH.",
            )
        service, domain = environment.get("MESH_SERVICE") or "", environment.get("MESH_TRUST_DOMAIN") or ""
        if service:
            check_service_name(service, field="MESH_SERVICE")
        namespace = environment.get("MESH_NAMESPACE") or "default"
        return cls(
            listen=listen,
            service=service,
            instance=environment.get("MESH_INSTANCE") or "",
            outbound=environment.get("MESH_OUTBOUND") or None,
            spiffe_id=str(SpiffeId(domain, namespace, service)) if domain and service else "",
        )


async def serve(agent: Agent, stop: Stop, settings: AgentSettings | None = None) -> None:
    """Serve the agent until `stop` is set, then drain: tasks get `limits.drain_seconds`, streams end by themselves.

    Raises AlreadyExists when the address is taken, InvalidInput when it is none or a variable is missing.
    """
    settings = settings or AgentSettings.from_environment()
    service = settings.service or agent.name
    draining = asyncio.Event()
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(open_mesh_client(outbound=settings.outbound))
        board = await stack.enter_async_context(open_board(agent, mesh, instance=settings.instance))
        servicer = AgentServicer(agent, board, service=service, spiffe_id=settings.spiffe_id, draining=draining)
        contract = Service(
            agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"],
            lambda server: agent_service_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server),
        )
        server_settings = ServerSettings(
            service=service,
            listen=settings.listen,
            max_concurrent=settings.max_concurrent_calls,
            drain_grace=agent.limits.drain_seconds + _DRAIN_MARGIN,
        )
        async with open_background(board.drain_when(draining)) as drained:
            async with open_server(server_settings, [contract]) as server:
                await server.set_serving(True)
                await stop.wait()
                draining.set()
            # Tasks that nobody watches get their time, too.
            await drained


def run_agent(agent: Agent) -> int:
    """Run the agent as a program until SIGTERM or SIGINT; returns the exit status, 1 after an error."""
    return run_program(lambda stop: serve(agent, stop), service=os.environ.get("MESH_SERVICE") or agent.name)
