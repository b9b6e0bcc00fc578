"""What a sidecar tells the control plane about itself, and what follows from it.

The launcher writes a ProxySpec into the node metadata of Envoy's bootstrap; the control plane reads it back. Nothing in
it grants anything: which service a proxy belongs to follows from its certificate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mesh.errors import InvalidInput
from mesh.model.address import Address


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """Where one sidecar listens and whom it fronts.

    `inbound` is the bind address of the mutual TLS listener, or None for a pure client. `app_socket` and
    `outbound_socket` are paths of unix sockets. `secrets_dir` holds svid.json and bundle.json, the SDS files;
    it may be relative to the folder in which Envoy runs, and what is built of it is then the same for all such proxies.
    `exposed_health` is the bind address of a plaintext listener that answers grpc.health.v1.Health/Check only, for a
    registry that has no mesh certificate. `edge` and `edge_tls` are the bind addresses of the edge without and with
    TLS, for which `secrets_dir` holds edge.json, too; only a gateway gets them. `guard_socket` and `web_socket` are
    where its application decides about calls, and where it speaks HTTP.
    `zone` is where it runs, "" for nowhere in particular: instances in the same zone are preferred.
    """

    service: str
    instance: str
    outbound_socket: str
    secrets_dir: str
    inbound: Address | None = None
    app_socket: str = ""
    exposed_health: Address | None = None
    edge: Address | None = None
    edge_tls: Address | None = None
    guard_socket: str = ""
    web_socket: str = ""
    zone: str = ""

    @property
    def has_edge(self) -> bool:
        """Whether it takes calls from outside of the mesh."""
        return self.edge is not None or self.edge_tls is not None

    @property
    def node_id(self) -> str:
        """The xDS node id: SERVICE/INSTANCE."""
        return f"{self.service}/{self.instance}"

    def to_metadata(self) -> dict[str, str]:
        """The node metadata: strings only, empty ones left out."""
        addresses = {
            "inbound": self.inbound,
            "exposed_health": self.exposed_health,
            "edge": self.edge,
            "edge_tls": self.edge_tls,
        }
        texts = {
            "outbound_socket": self.outbound_socket,
            "secrets_dir": self.secrets_dir,
            "app_socket": self.app_socket,
            "guard_socket": self.guard_socket,
            "web_socket": self.web_socket,
            "zone": self.zone,
        }
        return {name: str(value) for name, value in (texts | addresses).items() if value}

    @classmethod
    def from_metadata(cls, node_id: str, metadata: Mapping[str, object]) -> Self:
        """Read node id and metadata back; raises InvalidInput that names the field at fault."""
        service, slash, instance = node_id.partition("/")
        if not slash or not service or not instance:
            raise InvalidInput(
                f"{node_id!r} is not a node id.", field="node.id", fix="It has the form SERVICE/INSTANCE."
            )

        def text(name: str, *, required: bool = False) -> str:
            value = metadata.get(name, "")
            if not isinstance(value, str) or (required and not value):
                raise InvalidInput("A text is needed.", field=f"node.metadata.{name}", fix="Start it with meshctl run.")
            return value

        def address(name: str) -> Address | None:
            value = text(name)
            return Address.parse(value, field=f"node.metadata.{name}") if value else None

        return cls(
            service=service,
            instance=instance,
            outbound_socket=text("outbound_socket", required=True),
            secrets_dir=text("secrets_dir", required=True),
            inbound=address("inbound"),
            app_socket=text("app_socket"),
            exposed_health=address("exposed_health"),
            edge=address("edge"),
            edge_tls=address("edge_tls"),
            guard_socket=text("guard_socket"),
            web_socket=text("web_socket"),
            zone=text("zone"),
        )
