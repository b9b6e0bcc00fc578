"""What meshctl shows at the edge: a key or token of the environment, or the login of this mesh, renewed by itself."""

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import grpc

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition, MeshError, Unauthenticated, Unavailable
from mesh.rpc import Way, error_from_rpc, open_channel
from mesh.runtime.private_files import make_private_dir, read_secret, remove_file, write_file
from services.meshctl.edge import Edge, find_edge

_MARGIN = 30.0
"""Seconds before its end at which a token is renewed."""

_TIMEOUT = aiohttp.ClientTimeout(total=20)


@dataclass(frozen=True, slots=True)
class Login:
    """The tokens of a user; `expires` is seconds since 1970."""

    user: str
    access_token: str
    refresh_token: str
    expires: float


class Credentials:
    """The login that is kept for one mesh, in its state directory, 0600."""

    def __init__(self, settings: MeshSettings) -> None:
        self._path = settings.state_dir / "login" / "login.json"

    def load(self) -> Login | None:
        """What is kept; None when nobody has logged in."""
        data = read_secret(self._path)
        if data is None:
            return None
        try:
            return Login(**json.loads(data))
        except (ValueError, TypeError) as err:
            raise FailedPrecondition(
                f"{self._path} is damaged.", field=str(self._path), fix="Log in again: `meshctl login`."
            ) from err

    def save(self, login: Login) -> None:
        """Keep a login."""
        make_private_dir(self._path.parent)
        write_file(self._path, json.dumps(asdict(login)).encode(), mode=0o600)

    def forget(self) -> None:
        """Keep nothing any more."""
        remove_file(self._path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out: a refresh token is good once."""
        make_private_dir(self._path.parent)
        lock = os.open(self._path.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


async def read_headers(settings: MeshSettings, edge: Edge) -> tuple[tuple[str, str], ...]:
    """The headers that show who calls; none when there is no credential.

    MESH_API_KEY goes before MESH_TOKEN, and that before the login.
    """
    if key := os.environ.get("MESH_API_KEY"):
        return (("x-api-key", key),)
    if token := os.environ.get("MESH_TOKEN"):
        return (("authorization", f"Bearer {token}"),)
    login = Credentials(settings).load()
    if login is None:
        return ()
    return (("authorization", f"Bearer {await fresh_token(settings, edge)}"),)


async def fresh_token(settings: MeshSettings, edge: Edge) -> str:
    """An access token of the login that is kept; raises Unauthenticated when there is none or it has ended."""
    credentials = Credentials(settings)

    def is_fresh(login: Login | None) -> bool:
        return login is not None and time.time() < login.expires - _MARGIN

    login = credentials.load()
    if login is None:
        raise Unauthenticated("Nobody has logged in.", reason="NO_LOGIN", fix="Log in: `meshctl login --user NAME`.")
    if is_fresh(login):
        return login.access_token
    with await asyncio.to_thread(_enter, credentials):
        login = credentials.load()
        if login is not None and not is_fresh(login):
            login = await go_on(edge, login)
            credentials.save(login)
    if login is None:
        raise Unauthenticated("The login has ended.", reason="NO_LOGIN", fix="Log in: `meshctl login`.")
    return login.access_token


def _enter(credentials: Credentials) -> Any:
    """The lock, taken in a thread: waiting for it must not hold up the loop."""
    context = credentials.held()
    context.__enter__()

    @contextmanager
    def held() -> Iterator[None]:
        try:
            yield
        finally:
            context.__exit__(None, None, None)

    return held()


async def log_in(edge: Edge, user: str, password: str) -> Login:
    """Show a password at the edge. Raises Unauthenticated, or Unavailable when the edge does not answer."""
    return _login(user, await post(edge, "/v1/auth/login", json_body={"user": user, "password": password}))


async def go_on(edge: Edge, login: Login) -> Login:
    """Use the refresh token up for new tokens."""
    form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token}
    return _login(login.user, await post(edge, "/oauth2/token", form=form))


async def log_out(edge: Edge, login: Login) -> None:
    """End the login."""
    await post(edge, "/oauth2/revoke", form={"token": login.refresh_token})


async def get(edge: Edge, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Ask the edge over HTTP; raises MeshError with its own words when it refuses."""
    return await _ask(edge, "GET", path, headers=headers)


async def post(
    edge: Edge, path: str, *, form: dict[str, str] | None = None, json_body: dict[str, str] | None = None
) -> dict[str, Any]:
    """As `get`, with a form or JSON."""
    return await _ask(edge, "POST", path, data=form, json=json_body)


async def _ask(edge: Edge, method: str, path: str, **what: Any) -> dict[str, Any]:
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.request(method, f"{edge.url}{path}", ssl=edge.tls_context(), **what) as response,
        ):
            answer = await response.json(content_type=None) if response.content_length != 0 else {}
            status = response.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as err:
        raise Unavailable(f"The edge at {edge.url} does not answer: {err}.", fix="See `meshctl doctor`.") from err
    if status >= 400:
        raise _refused(status, answer if isinstance(answer, dict) else {})
    return answer if isinstance(answer, dict) else {}


def _refused(status: int, answer: dict[str, Any]) -> MeshError:
    words = str(answer.get("error_description") or answer.get("detail") or f"The edge has answered {status}.")
    kind = Unauthenticated if status in (400, 401, 403) else Unavailable
    return kind(words, reason=str(answer.get("reason") or answer.get("error") or "EDGE_REFUSED").upper())


def _login(user: str, answer: dict[str, Any]) -> Login:
    return Login(
        user, str(answer["access_token"]), str(answer.get("refresh_token", "")), time.time() + int(answer["expires_in"])
    )


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
