"""The programs of the mesh. They do not import one another; each `app.py` only wires rooms of `mesh` together."""
