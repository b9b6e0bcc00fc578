"""A mesh as far as keys, users and logins go: real stores, AccessService on an admin socket, an edge on a port."""

import asyncio
import base64
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import uvicorn
from argon2 import PasswordHasher
from click.testing import CliRunner, Result

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.access import user_store
from mesh.access.issuer import AccessStores, TokenIssuer
from mesh.config import MeshSettings
from mesh.config.document.access import Tokens
from mesh.errors import MeshError
from mesh.model import Address
from mesh.rpc import ServerSettings, error_to_status, open_server
from mesh.rpc.status import code_of
from mesh.state import MeshState, StateStore
from services.control_plane.access_keeper import AccessKeeper
from services.control_plane.access_service import access_service
from services.gateway.knowledge import Knowledge
from services.gateway.web.server import build_app
from services.gateway.web.tokens import token_routes
from services.meshctl.main import cli

PASSWORD = "correct horse battery"


@dataclass
class MeshHere:
    """How the test reaches it; `refreshes` counts the refresh tokens that were shown."""

    settings: MeshSettings
    stores: AccessStores
    refreshes: list[str]

    def meshctl(self, *words: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["--state-dir", str(self.settings.state_dir), *words], **options)

    def json(self, *words: str, **options: Any) -> Any:
        done = self.meshctl(*words, "--output", "json", **options)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    @staticmethod
    def said(done: Result) -> str:
        """What a command has said beside its answer, without what the servers in this process log."""
        return "\n".join(line for line in done.stderr.splitlines() if not line.startswith('{"ts"'))

    def log_in(self, name: str = "ada") -> None:
        assert self.meshctl("users", "create", name, "--password-file", "-", input=PASSWORD).exit_code == 0
        done = self.meshctl("login", "--user", name, "--password-file", "-", input=PASSWORD)
        assert done.exit_code == 0, done.output


class Issues:
    """GatewayService as far as it is about tokens, without the network that is between."""

    def __init__(self, issuer: TokenIssuer, refreshes: list[str]) -> None:
        self._issuer = issuer
        self._refreshes = refreshes

    async def IssueToken(self, asked: pb.IssueTokenRequest, timeout: float) -> pb.IssueTokenResponse:
        try:
            if asked.HasField("password"):
                issued = await self._issuer.by_password(asked.password.user, asked.password.password, "")
            else:
                self._refreshes.append(asked.refresh_token)
                issued = await self._issuer.by_refresh_token(asked.refresh_token)
        except MeshError as err:
            raise _rpc_error(err) from err
        return pb.IssueTokenResponse(
            access_token=issued.access_token, expires_in=issued.expires_in, refresh_token=issued.refresh_token
        )

    async def RevokeToken(self, asked: pb.RevokeTokenRequest, timeout: float) -> pb.RevokeTokenResponse:
        await self._issuer.revoke(asked.refresh_token)
        return pb.RevokeTokenResponse()


def _rpc_error(error: MeshError) -> grpc.aio.AioRpcError:
    status = error_to_status(error)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code_of(error), grpc.aio.Metadata(), trailing, status.message)


def _guarded(app: Any) -> Any:
    """What the guard writes into requests, unchecked."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        claims = {}
        if token := headers.get(b"authorization", b"").decode().removeprefix("Bearer "):
            claims = {"kind": "user", "name": jwt.decode(token, options={"verify_signature": False})["sub"]}
        elif key := headers.get(b"x-api-key", b"").decode():
            claims = {"kind": "key", "name": key}
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
        more = [(b"x-mesh-user", b"e30." + payload + b".c2ln"), (b"x-forwarded-proto", b"http")]
        await app(scope | {"headers": [*scope["headers"], *more]}, receive, send)

    return guard


@pytest.fixture
def mesh_here(monkeypatch) -> Iterator[MeshHere]:
    folder = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    for name in ("MESH_API_KEY", "MESH_TOKEN", "MESH_EDGE_URL", "MESH_EDGE_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    # The true one takes 64 MB and all of a core.
    monkeypatch.setattr(user_store, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("MESH_GATEWAY_BIND", f"127.0.0.1:{port}")
        # The command line sets it for its children.
        monkeypatch.setenv("MESH_STATE_DIR", str(folder))
        settings = replace(MeshSettings.from_environment(), gateway_bind=Address("127.0.0.1", port))
        stores = AccessStores(settings.ca_dir / "access")
        stores.signing.advance("EdDSA", now=0.0, key_life=1e12, token_life=600.0)
        found = MeshHere(settings, stores, [])
        try:
            with _running(_serve(found, listener)):
                yield found
        finally:
            shutil.rmtree(folder)


@asynccontextmanager
async def _serve(found: MeshHere, listener: socket.socket) -> AsyncIterator[None]:
    keeper = AccessKeeper(found.stores, StateStore(MeshState("agentmesh.local")))
    issues = Issues(TokenIssuer(found.stores, Tokens), found.refreshes)
    app = _guarded(build_app(token_routes(Knowledge(), issues)))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", access_log=False))
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    admin = ServerSettings(service="control-plane", listen=f"unix:{found.settings.admin_socket}")
    async with open_server(admin, [access_service(keeper, lambda: "operator test")]):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            # It would look only every 0.1 s whether it is to stop.
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
            await server.shutdown([listener])


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


@contextmanager
def _running(context: Any) -> Iterator[None]:
    """Keep an async context open in a thread of its own: commands run loops of their own."""
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[BaseException] = []

    async def hold() -> None:
        loops.append(asyncio.get_running_loop())
        async with context:
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(hold())
        except BaseException as err:
            failures.append(err)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(20)
        assert not failures, failures
        yield
    finally:
        if not failures:
            loops[0].call_soon_threadsafe(stop.set)
        thread.join(20)
    assert not thread.is_alive()
