"""Envoy's bootstrap, from the template sidecar_config/bootstrap.yaml."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import mesh
from mesh.errors import FailedPrecondition
from mesh.model import Address, ProxySpec, SpiffeId

MOST_CONNECTIONS = 10_000
"""Connections to one sidecar, of all listeners together; further ones are closed at once."""

MOST_MEMORY = 1 << 30
"""Bytes of one sidecar's heap; near them it refuses what is new, so that what runs goes on."""

TEMPLATE = Path(mesh.__file__).resolve().parents[1] / "sidecar_config" / "bootstrap.yaml"

_NAME = re.compile(r"\$\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Where a sidecar gets its configuration, and who must answer there. Any of the addresses will do."""

    addresses: tuple[Address, ...]
    identity: SpiffeId


def build_bootstrap(
    spec: ProxySpec, control: ControlPlane, *, admin_socket: str, most_connections: int = MOST_CONNECTIONS
) -> dict[str, Any]:
    """The bootstrap of one sidecar, ready to be written as JSON. Raises FailedPrecondition for a broken template."""
    values = {
        "node_id": spec.node_id,
        "service": spec.service,
        "metadata": spec.to_metadata(),
        "secrets_dir": spec.secrets_dir,
        "admin_socket": admin_socket,
        "most_connections": most_connections,
        "most_memory": MOST_MEMORY,
        "control_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": each.host, "port_value": each.port}}}}
            for each in control.addresses
        ],
        "control_identity": str(control.identity),
        "control_name": f"{control.identity.service}.mesh",
    }
    filled: dict[str, Any] = _fill(_template(), values)
    return filled


@cache
def _template() -> Any:
    try:
        content = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, yaml.YAMLError) as err:
        raise FailedPrecondition(
            f"{TEMPLATE} cannot be used: {err}.", reason="TEMPLATE_BROKEN", field=str(TEMPLATE), fix="Restore it."
        ) from err
    return content


def _fill(node: Any, values: dict[str, Any]) -> Any:
    """Replace ${name}: by the value itself where it is all of a text, by its text inside of a longer one."""
    if isinstance(node, dict):
        return {key: _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(item, values) for item in node]
    if not isinstance(node, str):
        return node
    try:
        if whole := _NAME.fullmatch(node):
            return values[whole[1]]
        return _NAME.sub(lambda found: str(values[found[1]]), node)
    except KeyError as err:
        raise FailedPrecondition(
            f"{TEMPLATE} asks for {err.args[0]!r}, which there is not.",
            reason="TEMPLATE_BROKEN",
            field=str(TEMPLATE),
            fix=f"Use one of {', '.join(sorted(values))}.",
        ) from err
