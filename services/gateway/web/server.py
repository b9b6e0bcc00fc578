"""Serves the web doors on a unix socket."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from mesh.errors import MeshError
from mesh.rpc.listen import socket_path
from services.gateway.web.problems import on_defect, on_http_error, on_mesh_error

_GRACE = 5
_MODE = 0o600
_BACKLOG = 1024


class _Quiet(uvicorn.Server):
    """One that leaves signals to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def build_app(routes: Sequence[BaseRoute]) -> Starlette:
    """All web doors as one application."""
    handlers = {MeshError: on_mesh_error, HTTPException: on_http_error, Exception: on_defect}
    health = [Route("/healthz", _answer_ok), Route("/readyz", _answer_ok)]
    return Starlette(routes=[*health, *routes], exception_handlers=handlers)


async def _answer_ok(request: Request) -> Response:
    """Who hears this has come through Envoy, and through the guard, which answers only when it knows the rules."""
    return PlainTextResponse("ok\n")


@asynccontextmanager
async def open_web(listen: str, app: Starlette) -> AsyncIterator[None]:
    """Serve at "unix:PATH", which only the own account can open, while the block runs."""
    path = socket_path(listen)
    assert path is not None
    with _bound(path) as sock:
        config = uvicorn.Config(
            app,
            log_config=None,
            # Below that it logs the queries of WebSockets, in which browsers show tokens.
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws_max_size=64 << 10,
            ws_ping_interval=20.0,
            ws_ping_timeout=20.0,
            timeout_graceful_shutdown=_GRACE,
            timeout_keep_alive=75,
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        server = _Quiet(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving


@contextlib.contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    previous = os.umask(0o177)
    try:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
    finally:
        os.umask(previous)
    try:
        path.chmod(_MODE)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        yield sock
    finally:
        sock.close()
        path.unlink(missing_ok=True)
