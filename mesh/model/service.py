"""What a service and its instances are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.errors import InvalidInput

KINDS = ("agent", "gateway", "mcp", "service")

RESERVED_NAMES = ("control-plane", "consul")
"""Names of the mesh's own identities: the control plane's, and that with which the registry checks health."""

ZONE = "zone"
"""The key of an instance's metadata that names its zone."""

_ZONE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_NOTHING: Mapping[str, str] = MappingProxyType({})


def check_service_name(name: str, *, field: str = "service") -> None:
    """Raise InvalidInput unless `name` is a DNS label (RFC 1123) that starts with a letter."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{name!r} is not a service name.",
            field=field,
            fix="Use lower-case letters, digits and dashes, starting with a letter, at most 63 characters.",
        )


def check_zone(zone: str, *, field: str = "MESH_ZONE") -> None:
    """Raise InvalidInput unless `zone` is empty or a name of at most 64 characters."""
    if zone and _ZONE.fullmatch(zone) is None:
        raise InvalidInput(
            f"{zone[:80]!r} is not the name of a zone.",
            field=field,
            fix="Use letters, digits, dots, dashes and underscores, at most 64, for example eu-west-1a.",
        )


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a service, as the registry knows it.

    `address` and `port` are those of the sidecar's mutual TLS listener. `capabilities` are skill or tool names, sorted.
    `metadata` may have a ZONE.
    """

    service: str
    id: str
    address: str
    port: int
    kind: str = "service"
    version: str = ""
    protocol: str = "grpc"
    capabilities: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    is_healthy: bool = True
    health_output: str = ""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What an operator said about a service: its kind and whom it may call; "*" stands for every service."""

    service: str
    kind: str
    upstreams: tuple[str, ...] = ()
