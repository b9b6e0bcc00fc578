"""What is said about one member before it joins."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import InvalidInput
from mesh.model import Address, check_service_name, check_zone
from mesh.sidecar.edge_certificate import EdgeCertificate


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """One member of the mesh. `version` and `metadata`, such as its zone, are registered with it.

    `instance` is its id; "" makes one, whose files are removed at the end. `command` runs the application, which
    serves at MESH_LISTEN; `app_listen` ("unix:/PATH") is where it serves when it does not obey that. With neither it
    is a pure client: it can call, and is not registered. `bind` is for the inbound listener (port 0 for any free one),
    `advertise_host` what others are told. `exposed_health` is for a registry without an identity of the mesh: health
    is then answered without TLS as well, and nothing else is. `is_client` tells that the command serves nothing: it is
    run, and not registered. With `is_proxyless` its own calls go by gRPC's own xDS client instead of an Envoy.
    `zone` is where the member runs: callers prefer instances of their own zone. `edge` and `edge_tls` are the addresses
    of a gateway's doors without and with TLS, the latter with `edge_certificate`.

    Seconds: `start_timeout` until the application must be healthy and Envoy live; `deregister_wait` for callers to
    hear of the end; `quiet_wait` for calls in flight to end by themselves before the application is told to end
    (streams without an end hold up a stop that long); `drain_grace` for it to finish then.
    """

    service: str
    kind: str
    state_dir: Path
    control_planes: tuple[Address, ...]
    enrolment: Address
    trust_domain: str
    namespace: str = "default"
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    instance: str = ""
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    app_listen: str = ""
    bind: Address = Address("127.0.0.1", 0)  # noqa: RUF009 - frozen
    advertise_host: str = "127.0.0.1"
    edge: Address | None = None
    edge_tls: Address | None = None
    edge_certificate: EdgeCertificate | None = None
    exposed_health: bool = False
    is_client: bool = False
    is_proxyless: bool = False
    zone: str = ""
    start_timeout: float = 30.0
    deregister_wait: float = 0.5
    quiet_wait: float = 5.0
    drain_grace: float = 30.0

    @property
    def has_edge(self) -> bool:
        """Whether clients outside of the mesh come in by it."""
        return self.edge is not None or self.edge_tls is not None

    @property
    def is_pure_client(self) -> bool:
        """Whether there is no application to be called."""
        return self.is_client or (self.command is None and not self.app_listen)

    @property
    def has_envoy(self) -> bool:
        """Whether there is an Envoy: grpc.aio cannot serve by xDS, so that what comes in needs one in any case."""
        return not (self.is_pure_client and self.is_proxyless)

    def check(self) -> None:
        """Raise InvalidInput for what cannot work, before a port, a file or a join token is spent on it."""
        check_service_name(self.service)
        check_zone(self.zone)
        if self.app_listen and not self.app_listen.startswith("unix:/"):
            raise InvalidInput(
                f"{self.app_listen!r} is no unix socket.", field="listen", fix="Write unix:/PATH, an absolute path."
            )
        if self.command is not None:
            _check_command(self.command, self.env)
        if self.has_edge and self.is_pure_client:
            raise InvalidInput("A pure client has no edge.", field="edge", fix="Give it an application.")
        if (self.edge_tls is None) != (self.edge_certificate is None):
            raise InvalidInput("A door with TLS goes with a certificate.", field="edge_tls", fix="Give both or none.")
        if (self.is_client or self.is_proxyless) and self.command is None:
            raise InvalidInput("There is no program that calls.", field="command", fix="Give a program to run.")


def _check_command(command: tuple[str, ...], env: Mapping[str, str]) -> None:
    if not command or not command[0]:
        raise InvalidInput(
            "There is no command for the application.", field="command", fix="Give a program and its arguments."
        )
    # Only what is certainly wrong; the rest shows when it is started.
    if "/" not in command[0] and shutil.which(command[0], path=env.get("PATH")) is None:
        raise _not_found(command[0])
    if "/" in command[0] and not Path(command[0]).exists():
        raise _not_found(command[0])


def _not_found(program: str) -> InvalidInput:
    return InvalidInput(
        f"There is no command {program!r} on this machine.",
        reason="COMMAND_NOT_FOUND",
        field="command",
        fix="Check the spelling, install it, or give its full path.",
    )
