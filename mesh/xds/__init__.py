"""The xDS side of the control plane: every proxy has, at every moment, what its service may use, and nothing else.

    StateStore ──> Reconciler ──> Snapshot ──┐
                                             ├──> DeltaStream / StateStream ──> AdsServer ──> Envoy, gRPC clients
    DiscoveryRequest ──> Subscription ───────┘

descriptors < names < resources < references < snapshot | subscription < rollout | reconcile | limits | stream < server.
May import state and below.
"""

from mesh.xds.answers import Answer
from mesh.xds.server import AdsServer, identity_of_peer
from mesh.xds.status import ProxyStatus, TypeStatus

__all__ = ["AdsServer", "Answer", "ProxyStatus", "TypeStatus", "identity_of_peer"]
