"""What an operator sets, read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mesh.errors import InvalidInput
from mesh.model import Address


@dataclass(frozen=True, slots=True)
class ControlPlaneSettings:
    """Where the control plane listens, how others reach it, and where its registry is.

    `*_bind` are the addresses that it listens on, `*_advertise` those that it tells others.
    """

    state_dir: Path
    trust_domain: str
    namespace: str
    control_bind: Address
    control_advertise: Address
    enrolment_bind: Address
    enrolment_advertise: Address
    consul: Address
    consul_scheme: str
    consul_token: str

    @property
    def admin_socket(self) -> Path:
        """The unix socket of ControlService."""
        return self.state_dir / "control.sock"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read MESH_* and CONSUL_*; raises InvalidInput that names the variable at fault."""

        def address(name: str, default: str) -> Address:
            return Address.parse(environment.get(name) or default, field=name)

        control = address("MESH_CONTROL_BIND", "127.0.0.1:18000")
        enrolment = address("MESH_ENROLMENT_BIND", "127.0.0.1:18001")
        scheme, consul = parse_consul_address(environment.get("CONSUL_HTTP_ADDR") or "127.0.0.1:8500")
        return cls(
            state_dir=Path(environment.get("MESH_STATE_DIR") or ".mesh").absolute(),
            trust_domain=environment.get("MESH_TRUST_DOMAIN") or "agentmesh.local",
            namespace=environment.get("MESH_NAMESPACE") or "default",
            control_bind=control,
            control_advertise=address("MESH_CONTROL_ADVERTISE", str(control)),
            enrolment_bind=enrolment,
            enrolment_advertise=address("MESH_ENROLMENT_ADVERTISE", str(enrolment)),
            consul=consul,
            consul_scheme=scheme,
            consul_token=environment.get("CONSUL_HTTP_TOKEN") or "",
        )


def parse_consul_address(text: str) -> tuple[str, Address]:
    """Read CONSUL_HTTP_ADDR as Consul's own tools do: [http://|https://]HOST:PORT."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    if scheme not in {"http", "https"}:
        raise InvalidInput(
            f"{text!r} is not an address of Consul.",
            field="CONSUL_HTTP_ADDR",
            fix="Write HOST:PORT, http://HOST:PORT or https://HOST:PORT.",
        )
    return scheme, Address.parse(rest.rstrip("/"), field="CONSUL_HTTP_ADDR")
