"""What meshctl shows at the edge: a key or token of the environment, or the login at that edge, renewed by itself."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from mesh.config import MeshSettings
from mesh.errors import InvalidInput, Unauthenticated
from mesh.rpc import Way, error_from_rpc, open_channel
from services.meshctl.edge import Edge, find_edge
from services.meshctl.login_file import LoginFile
from services.meshctl.logins import go_on


async def read_headers(settings: MeshSettings, edge: Edge) -> tuple[tuple[str, str], ...]:
    """The headers that show who calls; none when there is no credential.

    MESH_API_KEY goes before MESH_TOKEN, and that before the login. Raises InvalidInput when they hold what no header
    can, Unauthenticated when the login has ended.
    """
    if key := _from_environment("MESH_API_KEY"):
        return (("x-api-key", key),)
    if token := _from_environment("MESH_TOKEN"):
        return (("authorization", f"Bearer {token}"),)
    if LoginFile(settings, edge).load() is None:
        return ()
    return (("authorization", f"Bearer {await fresh_token(settings, edge)}"),)


async def fresh_token(settings: MeshSettings, edge: Edge, *, clock: Callable[[], float] = time.time) -> str:
    """An access token of the login that is kept; raises Unauthenticated when there is none or it has ended."""
    file = LoginFile(settings, edge)
    login = file.load()
    if login is not None and not login.is_fresh(clock()):
        async with file.held():
            # Another process may have been faster.
            login = file.load()
            if login is not None and not login.is_fresh(clock()):
                login = await go_on(edge, login)
                file.save(login)
    if login is None:
        raise Unauthenticated("Nobody has logged in.", reason="NO_LOGIN", fix="Log in: `meshctl login --user NAME`.")
    return login.access_token


async def edge_way(settings: MeshSettings) -> Way:
    """The way through the edge for gRPC, with what shows who calls."""
    edge = find_edge(settings)
    return Way(str(edge.address), edge.grpc_credentials(), await read_headers(settings, edge))


@asynccontextmanager
async def open_service(settings: MeshSettings, name: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a service through the edge; errors of calls inside become MeshErrors."""
    async with open_channel(name, outbound=await edge_way(settings)) as channel:
        try:
            yield channel
        except grpc.aio.AioRpcError as err:
            raise error_from_rpc(err) from err


def _from_environment(name: str) -> str:
    text = os.environ.get(name, "").strip()
    if not text.isascii() or not text.isprintable():
        raise InvalidInput("It holds what no credential has.", field=name, fix="Set it to the key or token alone.")
    return text
