"""The programs of the mesh. They do not import one another; each `app.py` only wires rooms of `mesh` together."""

# First of all, since it prepares the process for gRPC.
import mesh  # noqa: F401
