"""What an operator sets by environment variables: where things listen and where they are reached.

Every program of the mesh reads the same variables, so that one environment describes one mesh.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from mesh.errors import InvalidInput
from mesh.model import Address, SpiffeId, check_zone

PRODUCTION = "production"

REGISTRIES = ("auto", "consul", "embedded")

CONFIG_DIR = Path(__file__).resolve().parents[2] / "sidecar_config"
"""The folder that holds the layers of the mesh document, in the repository or beside the installed packages."""

_SHORTEST_LIFE = 10
_LONGEST_LIFE = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """The settings of one mesh on this machine.

    `registry` is "consul", "embedded" (the control plane keeps it in a file of its own), or "auto": Consul when one is
    given, and for `meshctl up` also when one is on the machine or can be fetched; else the embedded one. A member that
    joins uses what the mesh uses.

    `ca_dir` holds the root and what belongs to it; control planes that share it act as one authority. `*_bind` are the
    addresses that a program listens on, `*_advertise` those that it tells others. `control_planes` are the control
    addresses of all control planes, of which members use any that answers. `sidecar_bind` and `sidecar_advertise` are
    hosts; each sidecar has a port of its own. `consul` is where the registry answers; `consul_is_given` tells that an
    operator runs it, so `meshctl up` starts none. `certificate_lifetime` is that of workload certificates, which are
    renewed at half of it. `config_dir` holds the layers of the mesh document that are files, defaults.yaml and one for
    each `environment`; `config_history` is "files" or "consul". `config_admins` are the SPIFFE ids that may read and
    change the document over the network; `secrets_store` is "file" or "consul", where secrets of kind kv: are
    kept, under the key in `secrets_key_file`. `zone` is where this machine is, "" for no zone.

    `gateway_bind` and `gateway_tls_bind` are the doors of the edge without and with TLS; `edge_certificate` and
    `edge_key` what it shows there (PEM), None: one of its own for development. `cache_url` is where gateways count
    and keep answers, valkey:// or redis://; "": a Valkey that `meshctl up` runs, "memory://": in each gateway.
    """

    state_dir: Path
    ca_dir: Path
    trust_domain: str
    namespace: str
    control_bind: Address
    control_advertise: Address
    control_planes: tuple[Address, ...]
    enrolment_bind: Address
    enrolment_advertise: Address
    gateway_bind: Address
    gateway_tls_bind: Address
    edge_certificate: Path | None
    edge_key: Path | None
    cache_url: str
    sidecar_bind: str
    sidecar_advertise: str
    registry: str
    consul: Address
    consul_scheme: str
    consul_token: str
    consul_is_given: bool
    consul_rpc_port: int
    consul_serf_port: int
    certificate_lifetime: timedelta
    environment: str
    config_dir: Path
    config_history: str
    config_admins: tuple[SpiffeId, ...]
    secrets_store: str
    secrets_key_file: Path
    zone: str = ""

    @property
    def is_production(self) -> bool:
        """Whether strangers may come: then no door is without TLS, whatever the mesh document says."""
        return self.environment == PRODUCTION

    @property
    def admin_socket(self) -> Path:
        """The unix socket of ControlService."""
        return self.state_dir / "control.sock"

    @property
    def registry_file(self) -> Path:
        """The file of the embedded registry."""
        return self.state_dir / "registry.db"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read MESH_* and CONSUL_HTTP_*; raises InvalidInput that names the variable at fault."""

        def address(name: str, default: str) -> Address:
            return Address.parse(environment.get(name) or default, field=name)

        def addresses(name: str, default: str) -> tuple[Address, ...]:
            words = (environment.get(name) or default).split(",")
            return tuple(dict.fromkeys(Address.parse(word.strip(), field=name) for word in words))

        def port(name: str, default: int) -> int:
            text = environment.get(name) or str(default)
            if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
                raise InvalidInput(f"{text!r} is not a port.", field=name, fix="Use a number from 1 to 65535.")
            return int(text)

        control = address("MESH_CONTROL_BIND", "127.0.0.1:18000")
        enrolment = address("MESH_ENROLMENT_BIND", "127.0.0.1:18001")
        given = environment.get("CONSUL_HTTP_ADDR") or ""
        scheme, consul = _parse_consul(given) if given else ("http", address("MESH_CONSUL_BIND", "127.0.0.1:8500"))
        certificate, key = _parse_pair(environment)
        zone = environment.get("MESH_ZONE") or ""
        check_zone(zone)
        control_advertise = address("MESH_CONTROL_ADVERTISE", str(control))
        sidecar_bind = environment.get("MESH_SIDECAR_BIND") or "127.0.0.1"
        state_dir = Path(environment.get("MESH_STATE_DIR") or ".mesh").absolute()
        return cls(
            state_dir=state_dir,
            ca_dir=Path(environment.get("MESH_CA_DIR") or state_dir / "ca").absolute(),
            trust_domain=environment.get("MESH_TRUST_DOMAIN") or "agentmesh.local",
            namespace=environment.get("MESH_NAMESPACE") or "default",
            control_bind=control,
            control_advertise=control_advertise,
            control_planes=addresses("MESH_CONTROL_PLANES", str(control_advertise)),
            enrolment_bind=enrolment,
            enrolment_advertise=address("MESH_ENROLMENT_ADVERTISE", str(enrolment)),
            gateway_bind=address("MESH_GATEWAY_BIND", "127.0.0.1:8080"),
            gateway_tls_bind=address("MESH_GATEWAY_TLS_BIND", "127.0.0.1:8443"),
            edge_certificate=certificate,
            edge_key=key,
            cache_url=environment.get("MESH_CACHE_URL") or "",
            sidecar_bind=sidecar_bind,
            sidecar_advertise=environment.get("MESH_SIDECAR_ADVERTISE") or sidecar_bind,
            registry=_parse_registry(environment.get("MESH_REGISTRY") or "auto"),
            consul=consul,
            consul_scheme=scheme,
            consul_token=environment.get("CONSUL_HTTP_TOKEN") or "",
            consul_is_given=bool(given),
            consul_rpc_port=port("MESH_CONSUL_RPC_PORT", 8300),
            consul_serf_port=port("MESH_CONSUL_SERF_PORT", 8301),
            certificate_lifetime=_parse_lifetime(environment.get("MESH_CERTIFICATE_LIFETIME") or "3600"),
            zone=zone,
            environment=_parse_environment(environment.get("MESH_ENVIRONMENT") or "dev"),
            config_dir=Path(environment.get("MESH_CONFIG_DIR") or CONFIG_DIR).absolute(),
            config_history=_parse_history(environment.get("MESH_CONFIG_HISTORY") or "files"),
            config_admins=_parse_admins(environment.get("MESH_CONFIG_ADMINS") or ""),
            secrets_store=_parse_store(environment.get("MESH_SECRETS_STORE") or "file"),
            secrets_key_file=Path(environment.get("MESH_SECRETS_KEY_FILE") or state_dir / "secrets.key").absolute(),
        )


def _parse_pair(environment: Mapping[str, str]) -> tuple[Path | None, Path | None]:
    names = ("MESH_EDGE_CERTIFICATE", "MESH_EDGE_KEY")
    certificate, key = (Path(text).absolute() if (text := environment.get(name)) else None for name in names)
    if (certificate is None) != (key is None):
        raise InvalidInput(
            "A certificate goes with its key.",
            field=names[key is None],
            fix=f"Set both {' and '.join(names)}, or none.",
        )
    return certificate, key


def _parse_registry(text: str) -> str:
    if text not in REGISTRIES:
        raise InvalidInput(
            f"{text!r} is not a registry.", field="MESH_REGISTRY", fix=f"Use one of {', '.join(REGISTRIES)}."
        )
    return text


def _parse_lifetime(text: str) -> timedelta:
    if not text.isascii() or not text.isdigit() or not _SHORTEST_LIFE <= int(text) <= _LONGEST_LIFE:
        raise InvalidInput(
            f"{text!r} is no lifetime of a certificate.",
            field="MESH_CERTIFICATE_LIFETIME",
            fix=f"Give seconds, from {_SHORTEST_LIFE} to {_LONGEST_LIFE}.",
        )
    return timedelta(seconds=int(text))


def _parse_store(text: str) -> str:
    if text not in ("file", "consul"):
        raise InvalidInput(f"{text!r} is no place for secrets.", field="MESH_SECRETS_STORE", fix="Use file or consul.")
    return text


def _parse_environment(text: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9-]{0,31}", text) is None or text in {"defaults", "operator", "built-in"}:
        raise InvalidInput(
            f"{text!r} is no name of an environment.",
            field="MESH_ENVIRONMENT",
            fix="Use one such as dev, staging or production.",
        )
    return text


def _parse_history(text: str) -> str:
    if text not in {"files", "consul"}:
        raise InvalidInput(
            f"{text!r} is no place for the history.", field="MESH_CONFIG_HISTORY", fix="Use files or consul."
        )
    return text


def _parse_admins(text: str) -> tuple[SpiffeId, ...]:
    try:
        return tuple(SpiffeId.parse(word) for word in re.split(r"[\s,]+", text) if word)
    except InvalidInput as err:
        raise InvalidInput(
            err.summary, field="MESH_CONFIG_ADMINS", fix=f"Separate several by commas. {err.fix}"
        ) from err


def _parse_consul(text: str) -> tuple[str, Address]:
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
