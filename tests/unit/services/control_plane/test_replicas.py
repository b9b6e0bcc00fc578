from pathlib import Path

from mesh.config import DeclarationStore
from mesh.state import MeshState, StateStore
from services.control_plane.replicas import open_replicas


async def test_a_control_plane_without_consul_is_alone_and_leads(tmp_path: Path) -> None:
    declarations = DeclarationStore.open(tmp_path / "declarations.json")
    async with open_replicas("me", None, declarations, StateStore(MeshState("test.local"))) as replicas:
        assert replicas.leadership.is_leader
        assert replicas.leadership.peers == ("me",)
        replicas.declared("a")
