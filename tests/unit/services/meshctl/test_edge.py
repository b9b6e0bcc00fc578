import socket
from dataclasses import replace

import pytest

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition
from mesh.model import Address
from services.meshctl.edge import find_edge


@pytest.fixture
def plain():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def settings(tmp_path, plain):
    made = MeshSettings.from_environment({})
    port = plain.getsockname()[1]
    return replace(made, state_dir=tmp_path, gateway_bind=Address("127.0.0.1", port))


def test_the_door_without_tls_is_taken_where_it_is_open(settings):
    edge = find_edge(settings)
    assert (edge.address, edge.has_tls, edge.grpc_credentials()) == (settings.gateway_bind, False, None)


def test_else_the_one_with_tls_and_the_own_authority_is(settings, plain):
    plain.close()
    authority = settings.state_dir / "edge" / "ca.pem"
    authority.parent.mkdir()
    authority.write_text("")
    edge = find_edge(settings)
    assert (edge.url, edge.authority) == (f"https://{settings.gateway_tls_bind}", authority)


def test_without_any_it_is_said_how_to_start_one(settings, plain):
    plain.close()
    with pytest.raises(FailedPrecondition) as found:
        find_edge(settings)
    assert "meshctl up" in str(found.value)
