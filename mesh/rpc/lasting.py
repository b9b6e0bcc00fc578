"""A gRPC server that outlives what ends grpc.aio's own one.

A single request whose path is no UTF-8 ends the loop of a grpc.aio server (1.85): it closes its port and never serves
again, while the process and the calls that run live on. Where no certificate is asked for, any stranger can do that.
Envoy lets no such request through, so what is behind one is not at risk.
"""

import asyncio
from collections.abc import Callable

import grpc

from mesh.errors import AlreadyExists
from mesh.model import Address
from mesh.rpc.listen import bind, socket_path, unlink_own
from mesh.telemetry import get_logger

_LOOK_EVERY = 0.5
"""Seconds between two looks at the server: while calls run it does not tell by itself that it has been given up."""

_PORT_TRIES = 50
_PORT_WAIT = 0.1
"""Seconds between two tries to get the port back, which is closed a moment later."""

_log = get_logger(__name__)

Credentials = grpc.ServerCredentials | Callable[[], grpc.ServerCredentials] | None


class LastingServer:
    """Serves at one address until it is stopped, by another grpc.aio server when one is given up."""

    def __init__(self, build: Callable[[], grpc.aio.Server], listen: str, credentials: Credentials) -> None:
        self._build = build
        self._listen = listen
        self._credentials = credentials
        self._path = socket_path(listen)
        self._server = build()
        self._given_up: grpc.aio.Server | None = None
        self._inode = 0

    async def start(self) -> int:
        """Bind, serve, and return the port, 0 for a unix socket. Raises as `bind` does."""
        credentials = self._credentials() if callable(self._credentials) else self._credentials
        port = bind(self._server, self._listen, credentials)
        self._inode = self._path.stat().st_ino if self._path is not None else 0
        if self._path is None:
            # Whoever comes after this server gets the same port.
            self._listen = str(Address(Address.parse(self._listen).host, port))
        await self._server.start()
        return port

    async def keep(self) -> None:
        """Serve anew whenever gRPC gives up for a path that it cannot read; any other reason is raised."""
        while True:
            try:
                # Without a time limit a cancelled wait would break the server's own end.
                while await self._server.wait_for_termination(_LOOK_EVERY):
                    pass
            except UnicodeDecodeError as err:
                _log.error("server_given_up", listen=self._listen, error=str(err))
            else:
                return
            if self._given_up is not None:
                await self._given_up.stop(0)
            # Its calls go on for as long as they like, or until the next one is given up.
            self._given_up = self._server
            await self._start_again()

    async def stop(self, grace: float) -> None:
        """Take no new calls, and end those that still run after `grace` seconds."""
        servers = [self._server] if self._given_up is None else [self._server, self._given_up]
        await asyncio.gather(*(server.stop(grace) for server in servers))
        if self._path is not None:
            unlink_own(self._path, self._inode)

    async def _start_again(self) -> None:
        for tries_left in reversed(range(_PORT_TRIES)):
            self._server = self._build()
            try:
                await self.start()
                return
            except AlreadyExists:
                if not tries_left:
                    raise
            await asyncio.sleep(_PORT_WAIT)
