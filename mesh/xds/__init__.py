"""The xDS side of the control plane: every proxy has, at every moment, what its service may use, and nothing else.

    StateStore ──> Reconciler ──> Snapshot ──┐
                                             ├──> DeltaStream / StateStream ──> AdsServer ──> Envoy, gRPC clients
    DiscoveryRequest ──> Subscription ───────┘
    Envoy ──load reports──> LoadReportServer ──> LoadReports <── who judges a canary or a change

descriptors < names < resources < references < snapshot | subscription < rollout | reconcile | limits | stream < server;
timing < load < load_reports < load_server. May import state and below.
"""

from mesh.xds.answers import Answer
from mesh.xds.load import Load
from mesh.xds.load_reports import LoadReports
from mesh.xds.load_server import LoadReportServer
from mesh.xds.names import cluster_of, subset_clusters
from mesh.xds.peer import identity_of_peer
from mesh.xds.server import AdsServer
from mesh.xds.status import ProxyStatus, TypeStatus

__all__ = [
    "AdsServer",
    "Answer",
    "Load",
    "LoadReportServer",
    "LoadReports",
    "ProxyStatus",
    "TypeStatus",
    "cluster_of",
    "identity_of_peer",
    "subset_clusters",
]
