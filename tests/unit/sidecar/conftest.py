import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from mesh.model import Address
from mesh.sidecar import MemberSettings


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def settings(short_dir: Path) -> Callable[..., MemberSettings]:
    """Settings of a member that would run `true`, with changes."""

    def build(**changes: Any) -> MemberSettings:
        given: dict[str, Any] = {
            "service": "echo",
            "kind": "service",
            "state_dir": short_dir,
            "control_planes": (Address("127.0.0.1", 1),),
            "enrolment": Address("127.0.0.1", 2),
            "trust_domain": "test.local",
            "command": ("true",),
        }
        return MemberSettings(**given | changes)

    return build


@pytest.fixture
def listener() -> Iterator[Callable[..., socket.socket]]:
    """Opens TCP sockets with options, bound and, unless told otherwise, listening; closed at the end."""
    opened: list[socket.socket] = []

    def open_it(port: int = 0, *options: int, listens: bool = True) -> socket.socket:
        opened.append(socket.socket())
        for option in options:
            opened[-1].setsockopt(socket.SOL_SOCKET, option, 1)
        opened[-1].bind(("127.0.0.1", port))
        if listens:
            opened[-1].listen()
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()
