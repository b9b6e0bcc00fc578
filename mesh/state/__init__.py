"""The mesh as it stands, as one immutable value, and a watch on it.

    discovery (instances) ──┐
    config (declarations) ──┴──> StateStore ──> watch() ──> xds, control service

    config (key file) ──┐
    discovery (KV) ─────┴──> open_secret_store ──> SecretStore

May import model and below, and the sources beside it.
"""

from mesh.state.changes import Fact, changes_between, track
from mesh.state.mesh_state import MeshState, changed_keys
from mesh.state.secret_store import open_secret_store
from mesh.state.store import StateStore

__all__ = ["Fact", "MeshState", "StateStore", "changed_keys", "changes_between", "open_secret_store", "track"]
