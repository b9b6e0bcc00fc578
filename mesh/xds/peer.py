"""Who is at the other end of a stream, by its certificate and by what it says of itself."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509

from mesh.errors import InvalidInput, Unauthenticated
from mesh.model import ProxySpec, SpiffeId
from mesh.xds.reconcile import ClientSpec, Spec

_GRPC = "gRPC"
"""How gRPC's own clients begin to name themselves; all others are Envoys."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A client as its first request describes it."""

    node_id: str
    agent: str
    spec: Spec


def identity_of_peer(context: Any) -> SpiffeId:
    """Who the proxy is by its certificate; raises Unauthenticated when it shows none of a mesh."""
    found: list[bytes] = list(context.auth_context().get("peer_spiffe_id") or ())
    try:
        # A certificate of the mesh has exactly one; several must not add up to one.
        return SpiffeId.parse(found[0].decode() if len(found) == 1 else "")
    except (UnicodeDecodeError, InvalidInput) as err:
        raise Unauthenticated(
            "The proxy shows no identity of this mesh.",
            reason="NO_PEER_IDENTITY",
            fix="Start it with `meshctl run`, which gets it a certificate.",
        ) from err


def expiry_of_peer(context: Any) -> datetime | None:
    """When the certificate of the proxy expires; None when it shows none."""
    found: list[bytes] = list(context.auth_context().get("x509_pem_cert") or ())
    return x509.load_pem_x509_certificate(found[0]).not_valid_after_utc if found else None


def parse_peer(node: Any, identity: SpiffeId) -> Peer:
    """Read the node of a first request; raises InvalidInput for a node of a sidecar that has no ProxySpec."""
    agent = node.user_agent_name
    if node.HasField("user_agent_build_version"):
        version = node.user_agent_build_version.version
        agent = f"{agent} {version.major_number}.{version.minor_number}.{version.patch}"
    if agent.startswith(_GRPC):
        return Peer(node.id, agent, ClientSpec(identity.service, node.locality.zone))
    return Peer(node.id, agent, ProxySpec.from_metadata(node.id, _texts(node.metadata)))


def _texts(metadata: Any) -> dict[str, str | None]:
    """The texts in a Struct; None stands for what is none, and may have no form in JSON."""
    fields = metadata.fields
    return {name: it.string_value if it.WhichOneof("kind") == "string_value" else None for name, it in fields.items()}
