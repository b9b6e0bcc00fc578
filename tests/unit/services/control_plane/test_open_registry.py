"""Which registry the control plane follows."""

import asyncio
from pathlib import Path

import pytest

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition, InvalidInput
from mesh.identity import CertificateAuthority
from services.control_plane.open_registry import open_registry


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, "embedded"),
        ({"MESH_REGISTRY": "embedded"}, "embedded"),
        ({"MESH_REGISTRY": "embedded", "CONSUL_HTTP_ADDR": "127.0.0.1:1"}, "embedded"),
        ({"MESH_REGISTRY": "consul"}, "consul"),
        ({"CONSUL_HTTP_ADDR": "127.0.0.1:1"}, "consul"),
    ],
)
async def test_auto_is_consul_when_one_is_given(tmp_path: Path, environment: dict[str, str], kind: str) -> None:
    settings = settings_of(tmp_path, **environment)
    async with open_registry(settings, authority_of(settings), asyncio.Event()) as registry:
        assert registry.kind == kind
        assert registry.address == str(settings.consul if kind == "consul" else settings.control_advertise)
        assert (registry.consul is None) == (kind == "embedded")
        assert settings.registry_file.exists() == (kind == "embedded")


async def test_several_control_planes_need_consul(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, MESH_CONTROL_PLANES="127.0.0.1:1,127.0.0.1:2")
    with pytest.raises(InvalidInput) as caught:
        async with open_registry(settings, authority_of(settings), asyncio.Event()):
            pass
    assert caught.value.field == "MESH_CONTROL_PLANES"


async def test_a_file_that_is_none_of_ours_keeps_the_control_plane_from_starting(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    settings.registry_file.write_bytes(b"not a database " * 100)
    with pytest.raises(FailedPrecondition, match=str(settings.registry_file)):
        async with open_registry(settings, authority_of(settings), asyncio.Event()):
            pass


def settings_of(folder: Path, **environment: str) -> MeshSettings:
    return MeshSettings.from_environment({"MESH_STATE_DIR": str(folder), **environment})


def authority_of(settings: MeshSettings) -> CertificateAuthority:
    return CertificateAuthority.open(settings.ca_dir, trust_domain=settings.trust_domain)
