"""The registry that the control plane keeps itself, for meshes without Consul.

    RegistryClient ──RegistryService──> RegistryServicer ──> EmbeddedRegistry ──watch()──> control plane
                                                                 │       │
                       probes of the instances <── run_checks ───┘       └── LeaseTable, InstanceDatabase (SQLite)

May import what the room around it may.
"""

from mesh.discovery.embedded.client import RegistryClient, open_registry_client
from mesh.discovery.embedded.probe import ChannelIdentity, probe_opener
from mesh.discovery.embedded.registry import EmbeddedRegistry, open_embedded_registry
from mesh.discovery.embedded.servicer import Callers, RegistryServicer

__all__ = [
    "Callers",
    "ChannelIdentity",
    "EmbeddedRegistry",
    "RegistryClient",
    "RegistryServicer",
    "open_embedded_registry",
    "open_registry_client",
    "probe_opener",
]
