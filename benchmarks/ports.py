"""Ports for servers that a test or a benchmark is about to start."""

import os
import random
import socket
import time
from collections.abc import Iterator

_FIRST, _END = 20_000, 32_000
"""Below what Linux gives to sockets that ask for any port: else a client takes the port before the server does."""


def free_ports(count: int) -> list[int]:
    """Ports of this host that nobody listens on, none of which this process has been given before.

    Raises OSError when there are not enough.
    """
    return [next(_ports) for _ in range(count)]


def wait_for_server(port: int, *, seconds: float = 30.0) -> None:
    """Wait until a server takes connections at a port of this host; raises OSError when it does not in time."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)  # a server that starts tells nobody


def _walk() -> Iterator[int]:
    # Tests run in several processes at once, each of which begins somewhere else.
    start = random.Random(os.getpid()).randrange(_END - _FIRST)
    for number in range(_END - _FIRST):
        port = _FIRST + (start + number) % (_END - _FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
    raise OSError(f"No port from {_FIRST} to {_END} is left.")


_ports = _walk()
