"""What the bridge is told: its place in the mesh by environment variables, the MCP server by arguments."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

from mesh.errors import InvalidInput
from mesh.mcp import DEFAULT_IDLE_SECONDS, DEFAULT_MAX_FRAME_BYTES, DEFAULT_MAX_LINKS, DEFAULT_MAX_SESSIONS
from mesh.model import check_service_name

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_EPILOG = """\
environment:
  MESH_SERVICE      the service's name in the mesh (required)
  MESH_LISTEN       where to serve gRPC: unix:/PATH or HOST:PORT (required)
  MESH_MCP_HEADERS  headers for the MCP server behind --url, one "Name: value" a line; for secrets such as Authorization

  MESH_MCP_MAX_SESSIONS, MESH_MCP_MAX_MEMORY_MB, MESH_MCP_MAX_CPU_SECONDS   what options say that are not given
"""


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """The settings of one bridge; either `command` or `url` names the MCP server."""

    service: str
    listen: str
    command: tuple[str, ...] = ()
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS, repr=False)
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
    max_links: int = DEFAULT_MAX_LINKS
    max_sessions: int = DEFAULT_MAX_SESSIONS
    session_idle_seconds: float = DEFAULT_IDLE_SECONDS
    start_timeout: float = 10.0
    max_concurrent: int = 256
    max_memory_mb: int = 0
    max_cpu_seconds: int = 0
    """Of each process of the server, see `ChildSpec`; 0: no bound."""

    @classmethod
    def parse(cls, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Self:
        """Read the command line and the environment.

        Exits with status 2 for arguments that make no sense, as argparse does; raises InvalidInput that names a
        variable or a value at fault.
        """
        parser = _build_parser(environment)
        given, command = _split(arguments)
        options = parser.parse_args(given)
        if bool(options.url) == bool(command):
            parser.error("say what to bridge: either --url URL or -- COMMAND ARG...")
        service = environment.get("MESH_SERVICE") or ""
        check_service_name(service, field="MESH_SERVICE")
        listen = environment.get("MESH_LISTEN") or ""
        if not listen:
            raise InvalidInput(
                "It is not said where to listen.", field="MESH_LISTEN", fix="Set it to unix:/PATH or HOST:PORT."
            )
        return cls(
            service=service,
            listen=listen,
            command=command,
            url=options.url or "",
            headers=_parse_headers(environment.get("MESH_MCP_HEADERS") or ""),
            max_frame_bytes=options.max_frame_bytes,
            max_links=options.max_links,
            max_sessions=options.max_sessions,
            session_idle_seconds=options.session_idle_seconds,
            start_timeout=options.start_timeout,
            max_concurrent=options.max_concurrent,
            max_memory_mb=options.max_memory_mb,
            max_cpu_seconds=options.max_cpu_seconds,
        )


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Split at the first "--"; what follows is the MCP server's command, whatever it looks like."""
    words = list(arguments)
    if "--" not in words:
        return words, ()
    at = words.index("--")
    return words[:at], tuple(words[at + 1 :])


def _build_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.mcp_bridge",
        usage="%(prog)s [OPTION...] (--url URL | -- COMMAND ARG...)",
        description="Serve an MCP server to the mesh.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--url", help="URL of a streamable HTTP server")
    parser.add_argument(
        "--max-frame-bytes",
        type=_positive(int),
        default=DEFAULT_MAX_FRAME_BYTES,
        metavar="BYTES",
        help="the largest MCP message (default: %(default)s)",
    )
    parser.add_argument(
        "--max-links",
        type=_positive(int),
        default=DEFAULT_MAX_LINKS,
        metavar="N",
        help="Link streams at a time, each with a server process of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--max-sessions",
        type=_positive(int),
        default=environment.get("MESH_MCP_MAX_SESSIONS") or DEFAULT_MAX_SESSIONS,
        metavar="N",
        help="sessions of callers with a server of the handshake era, each a process of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--session-idle-seconds",
        type=_positive(float),
        default=DEFAULT_IDLE_SECONDS,
        metavar="SECONDS",
        help="after which a session that nobody uses is closed (default: %(default)s)",
    )
    parser.add_argument(
        "--start-timeout",
        type=_positive(float),
        default=10.0,
        metavar="SECONDS",
        help="for the server to start and finish the handshake (default: %(default)s)",
    )
    parser.add_argument(
        "--max-concurrent",
        type=_positive(int),
        default=256,
        metavar="N",
        help="calls and streams at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--max-memory-mb",
        type=_positive(int),
        default=environment.get("MESH_MCP_MAX_MEMORY_MB") or 0,
        metavar="MB",
        help="data of each process of a server over stdio; more is refused to it (default: no bound)",
    )
    parser.add_argument(
        "--max-cpu-seconds",
        type=_positive(int),
        default=environment.get("MESH_MCP_MAX_CPU_SECONDS") or 0,
        metavar="SECONDS",
        help="processor time of each process of a server over stdio, after which it is killed (default: no bound)",
    )
    return parser


def _positive(number: type[int] | type[float]) -> type[int] | type[float]:
    def parse(text: str) -> int | float:
        value = number(text)
        if not 0 < value < 2**40:
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value

    parse.__name__ = "number"
    return parse  # type: ignore[return-value]


def _parse_headers(text: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not name.strip().isascii() or not value.strip().isascii():
            raise InvalidInput(  # without the line itself, which may hold a secret
                "A line is not a header.", field="MESH_MCP_HEADERS", fix='Write "Name: value", one on each line.'
            )
        headers[name.strip()] = value.strip()
    return headers
