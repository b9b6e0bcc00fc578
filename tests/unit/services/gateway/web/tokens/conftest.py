"""The doors for tokens, served as the gateway serves them, over a control plane that is played."""

import asyncio
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.errors import MeshError, ResourceExhausted, Unauthenticated
from mesh.rpc import error_to_status
from mesh.rpc.status import code_of
from services.gateway.knowledge import Knowledge
from services.gateway.web.server import build_app, open_web
from services.gateway.web.tokens import token_routes

PASSWORD = "correct horse battery"


class ControlPlane:
    """GatewayService as far as it is about tokens: one user, one key. Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[pb.IssueTokenRequest] = []
        self.timeouts: list[float] = []
        self.good: set[str] = set()
        self.revoked: list[str] = []
        self.is_tired = False
        self.is_away = False
        self.together: asyncio.Barrier | None = None

    async def IssueToken(self, asked: pb.IssueTokenRequest, timeout: float) -> pb.IssueTokenResponse:
        self.asked.append(asked)
        self.timeouts.append(timeout)
        if self.together is not None:
            await self.together.wait()
        if self.is_away:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "away")
        if self.is_tired:
            raise rpc_error(ResourceExhausted("There were too many failed attempts.", fix="Try again in 8 s."))
        match asked.WhichOneof("grant"):
            case "password" if (asked.password.user, asked.password.password) == ("ada", PASSWORD):
                return self._issue()
            case "client" if (asked.client.client_id, asked.client.client_secret) == ("am_1", "se:cret"):
                return pb.IssueTokenResponse(access_token="a.b.c", expires_in=600)
            case "refresh_token" if asked.refresh_token in self.good:
                self.good.remove(asked.refresh_token)
                return self._issue()
        raise rpc_error(Unauthenticated('It does not "hold".', reason="REFUSED"))

    async def RevokeToken(self, asked: pb.RevokeTokenRequest, timeout: float) -> pb.RevokeTokenResponse:
        self.timeouts.append(timeout)
        self.revoked.append(asked.refresh_token)
        return pb.RevokeTokenResponse()

    def _issue(self) -> pb.IssueTokenResponse:
        token = f"rt_{secrets.token_hex(4)}"
        self.good.add(token)
        return pb.IssueTokenResponse(access_token="a.b.c", expires_in=600, refresh_token=token)


def rpc_error(error: MeshError) -> grpc.aio.AioRpcError:
    status = error_to_status(error)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code_of(error), grpc.aio.Metadata(), trailing, status.message)


@pytest.fixture
def control_plane():
    return ControlPlane()


class Switch:
    """The doors of the test that runs: a server takes 0.2 s to stop, so all tests use one."""

    def __init__(self) -> None:
        self.doors: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.doors(scope, receive, send)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served():
    folder = tempfile.mkdtemp(prefix="am-", dir="/tmp")
    path = Path(folder) / "web.sock"
    switch = Switch()
    try:
        async with (
            open_web(f"unix:{path}", switch),
            aiohttp.ClientSession(
                "http://edge.example", connector=aiohttp.UnixConnector(str(path)), timeout=aiohttp.ClientTimeout(10)
            ) as session,
        ):
            yield switch, session
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def client(served, control_plane):
    switch, session = served
    knowledge = Knowledge()
    knowledge.access.jwks, knowledge.access.issuer = b'{"keys": []}', "agentmesh"
    switch.doors = build_app(token_routes(knowledge, control_plane))
    return session
