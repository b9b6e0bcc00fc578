"""The mesh as it stands, as one immutable value, and a watch on it.

    discovery (instances) ──┐
    config (declarations) ──┴──> StateStore ──> watch() ──> xds, control service

    config (key file) ──┐
    discovery (KV) ─────┴──> open_secret_store ──> SecretStore

May import model and below, and the sources beside it.
"""

from mesh.state.mesh_state import MeshState
from mesh.state.secret_store import open_secret_store
from mesh.state.store import StateStore

__all__ = ["MeshState", "StateStore", "open_secret_store"]
