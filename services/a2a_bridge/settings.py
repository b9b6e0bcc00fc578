"""What the bridge is told: its place in the mesh by environment variables, the other agent by arguments."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self
from urllib.parse import urlsplit

from mesh.errors import InvalidInput
from mesh.model import check_service_name

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_CARD = ".well-known/agent-card.json"
_HEADERS = "MESH_A2A_HEADERS"
_EPILOG = f"""\
environment:
  MESH_SERVICE      the service's name in the mesh (required)
  {_HEADERS}  headers for the agent behind --url, one "Name: value" a line; for secrets such as Authorization
"""


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """The settings of one bridge. `card_url` is where the card of the other agent is."""

    service: str
    card_url: str
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS, repr=False)

    @classmethod
    def parse(cls, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Self:
        """Read the command line and the environment.

        Exits with status 2 for arguments that make no sense, as argparse does; raises InvalidInput that names a
        variable or a value at fault.
        """
        parser = argparse.ArgumentParser(
            prog="python -m services.a2a_bridge",
            description="Serve an agent of A2A to the mesh.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("--url", required=True, help=f"URL of the agent's card, or of what {_CARD} stands below")
        options = parser.parse_args(arguments)
        service = environment.get("MESH_SERVICE") or ""
        check_service_name(service, field="MESH_SERVICE")
        return cls(service, card_url_of(options.url), parse_headers(environment.get(_HEADERS) or ""))


def card_url_of(url: str) -> str:
    """Where the card is; raises InvalidInput for what is no URL of http or https."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_url = False
    if not is_url:
        raise InvalidInput(f"{url!r} is no URL.", field="--url", fix="Write http://HOST:PORT/PATH or https://...")
    return url if parts.path.endswith(".json") else f"{url.rstrip('/')}/{_CARD}"


def parse_headers(text: str) -> Mapping[str, str]:
    """Lines of "Name: value". Raises InvalidInput without the values, which may be secret."""
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = (word.strip() for word in line.partition(":"))
        if not colon or not name or not value or not (name + value).isascii():
            raise InvalidInput(f"Line {number} is no header.", field=_HEADERS, fix='Write "Name: value" on each line.')
        headers[name] = value
    return MappingProxyType(headers)
