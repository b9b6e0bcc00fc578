"""The words of A2A 1.0 and those of the mesh, for who stands between the two.

    gateway:  A2A client ──> parts of A2A ──> parts of the mesh ──> agent
    bridge:   agent of the mesh's own ──> parts of A2A ──> agent elsewhere

May import mesh.errors, the stubs of agentmesh.agent and the messages of a2a-sdk.
"""

from mesh.a2a.parts import part_from_mesh, part_to_mesh, parts_to_mesh, set_struct, struct_to_json

__all__ = ["part_from_mesh", "part_to_mesh", "parts_to_mesh", "set_struct", "struct_to_json"]
