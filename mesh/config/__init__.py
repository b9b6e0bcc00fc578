"""What operators say: settings of this machine, declarations of services, the mesh file.

    environment ──> MeshSettings
    mesh.yaml ────> load_mesh_file ──> MeshFile ──┐
    ControlService ───────────────────────────────┴──> DeclarationStore ──> declarations.json

May import model and errors.
"""

from mesh.config.declarations import DeclarationStore, check_declaration
from mesh.config.mesh_file import METADATA_KEY, MeshFile, ServiceEntry, load_mesh_file
from mesh.config.settings import MeshSettings

__all__ = [
    "METADATA_KEY",
    "DeclarationStore",
    "MeshFile",
    "MeshSettings",
    "ServiceEntry",
    "check_declaration",
    "load_mesh_file",
]
