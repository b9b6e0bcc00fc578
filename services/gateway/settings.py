"""What the launcher tells the gateway's application."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Self

from mesh.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Sockets ("unix:PATH") of the contracts, of the guard and of the web doors; folders of certificates and audit.

    `cache_url` is where limits are counted and answers kept: valkey://, redis://, unix:// or memory://. To addresses in
    `push_networks` notifications of A2A may go although they are not public.
    """

    listen: str
    guard_listen: str
    web_listen: str
    secrets_dir: Path
    audit_dir: Path
    cache_url: str = "memory://"
    push_networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read MESH_*; raises InvalidInput that names the variable that is missing."""

        def needed(name: str) -> str:
            value = environment.get(name) or ""
            if not value:
                raise InvalidInput("It is not set.", field=name, fix="Start the gateway with `meshctl up`.")
            return value

        return cls(
            listen=needed("MESH_LISTEN"),
            guard_listen=needed("MESH_GUARD_LISTEN"),
            web_listen=needed("MESH_WEB_LISTEN"),
            secrets_dir=Path(needed("MESH_SECRETS_DIR")),
            audit_dir=Path(needed("MESH_AUDIT_DIR")),
            cache_url=environment.get("MESH_CACHE_URL") or "memory://",
            push_networks=_parse_networks(environment.get("MESH_A2A_PUSH_NETWORKS") or ""),
        )


def _parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(word.strip()) for word in text.split(",") if word.strip())
    except ValueError as err:
        raise InvalidInput(
            f"{text!r} names no networks.", field="MESH_A2A_PUSH_NETWORKS", fix="Write them as 10.0.0.0/8,fd00::/8."
        ) from err
