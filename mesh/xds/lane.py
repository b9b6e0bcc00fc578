"""The connections that get the same policy: that of the state, or that of a change which is on trial with some proxies.

Each lane follows the states by itself, so that a change on trial costs the others nothing and shares nothing with them
but equal bytes.
"""

from collections.abc import Collection

from mesh.config.document import Policy
from mesh.state import MeshState
from mesh.xds.connection import Connection
from mesh.xds.reconcile import Reconciler, Spec
from mesh.xds.snapshot import Snapshot


class Lane:
    """A reconciler and its connections. `policy` replaces that of the state, if it is given."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy
        self._reconciler = Reconciler()
        self._connections: dict[Spec, set[Connection]] = {}
        self._joined: dict[Spec, None] = {}
        self._state: MeshState | None = None
        self._seen: MeshState | None = None

    @property
    def is_empty(self) -> bool:
        """True when it has no connection."""
        return not self._connections

    def join(self, connection: Connection) -> None:
        """Add a connection that has been offered what it should have."""
        self._connections.setdefault(connection.spec, set()).add(connection)

    def take_over(self, connection: Connection) -> None:
        """Add a connection of another lane: it is to be offered what it should have here."""
        self.join(connection)
        self._joined[connection.spec] = None

    def leave(self, connection: Connection) -> None:
        """Remove a connection, also one that did not get to join; what the last one of its kind had is forgotten."""
        found = self._connections.get(connection.spec, set())
        found.discard(connection)
        if not found:
            self._connections.pop(connection.spec, None)
            self._joined.pop(connection.spec, None)
            self._reconciler.forget(connection.spec)

    def advance(self, state: MeshState) -> None:
        """Take in a state; whom it concerns is given by `next_affected`."""
        self._reconciler.advance(self._with_policy(state))

    def next_affected(self) -> Collection[Connection] | None:
        """Connections that are to be offered something else, each once; None when there are none left."""
        spec = self._joined.popitem()[0] if self._joined else self._reconciler.next_affected()
        return self._connections.get(spec, ()) if spec is not None else None

    def offer(self, connection: Connection, state: MeshState) -> None:
        """Give a connection what it should have by a state. Raises MeshError when that cannot be built."""
        connection.offer(self._reconciler.snapshot(self._with_policy(state), connection.spec), state.version)

    def preview(self, spec: Spec, state: MeshState, policy: Policy) -> Snapshot:
        """What a client would get by another policy; nothing of it is remembered. Raises MeshError as `offer` does."""
        return self._reconciler.preview(state.with_policy(policy), spec)

    def _with_policy(self, state: MeshState) -> MeshState:
        if self.policy is None:
            return state
        if self._seen is not state or self._state is None:
            self._seen, self._state = state, state.with_policy(self.policy)
        return self._state
