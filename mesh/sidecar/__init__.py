"""A member of the mesh: an application, the Envoy beside it, its identity and its place in the registry.

    open_member ──> identity files ──> Envoy (bootstrap from sidecar_config/) <── ADS ── control plane
            ├─────> application on its unix socket
            └─────> registration, last in and first out

May import state and below, and the stubs of `agentmesh.agent` and `agentmesh.mcp`.
"""

from mesh.sidecar.bootstrap import ControlPlane, build_bootstrap
from mesh.sidecar.edge_certificate import EdgeCertificate
from mesh.sidecar.envoy import Envoy, EnvoySettings, find_envoy, open_envoy
from mesh.sidecar.member import Member, OpenRegistry, open_member
from mesh.sidecar.settings import MemberSettings
from mesh.sidecar.tcp import port_holder

__all__ = [
    "ControlPlane",
    "EdgeCertificate",
    "Envoy",
    "EnvoySettings",
    "Member",
    "MemberSettings",
    "OpenRegistry",
    "build_bootstrap",
    "find_envoy",
    "open_envoy",
    "open_member",
    "port_holder",
]
