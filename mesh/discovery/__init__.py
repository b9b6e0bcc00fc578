"""Who is in the mesh, and where: registering instances and following all of them.

    open_registration ──> Registry (Protocol) ──> watch() of RegistrySnapshot
                              │
                              ├── ConsulRegistry ──HTTP──> Consul agent <── open_consul_agent <── find_consul
                              │                               └── gRPC health check of each instance
                              └── embedded.RegistryClient ──gRPC──> control plane
                                                                      └── gRPC health check of each instance

May import rpc, runtime, telemetry, model and errors.
"""

from mesh.discovery.consul_agent import AgentTls, ConsulAgent, ConsulAgentSettings, open_consul_agent
from mesh.discovery.consul_binary import find_consul
from mesh.discovery.consul_client import ConsulEndpoint
from mesh.discovery.consul_kv import ConsulKv, KvEntry, KvView, open_kv, watch_keys
from mesh.discovery.consul_registry import ConsulRegistry
from mesh.discovery.leadership import Leadership, open_leadership
from mesh.discovery.registration import Registration, open_registration
from mesh.discovery.registry import HealthCheck, Registry, RegistrySnapshot

__all__ = [
    "AgentTls",
    "ConsulAgent",
    "ConsulAgentSettings",
    "ConsulEndpoint",
    "ConsulKv",
    "ConsulRegistry",
    "HealthCheck",
    "KvEntry",
    "KvView",
    "Leadership",
    "Registration",
    "Registry",
    "RegistrySnapshot",
    "find_consul",
    "open_consul_agent",
    "open_kv",
    "open_leadership",
    "open_registration",
    "watch_keys",
]
