from pathlib import Path

import pytest

from mesh.config import MeshSettings
from mesh.errors import InvalidInput
from mesh.model import Address


def test_an_empty_environment_gives_the_fixed_addresses():
    settings = MeshSettings.from_environment({})
    assert settings.consul == Address("127.0.0.1", 8500)
    assert settings.gateway_bind == Address("127.0.0.1", 8080)
    assert not settings.consul_is_given
    assert settings.state_dir == Path(".mesh").absolute()
    assert settings.admin_socket == settings.state_dir / "control.sock"


def test_what_is_bound_is_advertised_unless_said_otherwise():
    bound = MeshSettings.from_environment({"MESH_CONTROL_BIND": "10.0.0.1:1"})
    assert bound.control_advertise == Address("10.0.0.1", 1)
    said = MeshSettings.from_environment({"MESH_CONTROL_BIND": "0.0.0.0:1", "MESH_CONTROL_ADVERTISE": "h:2"})
    assert said.control_advertise == Address("h", 2)


@pytest.mark.parametrize(
    ("text", "scheme", "address"),
    [
        ("consul:8500", "http", Address("consul", 8500)),
        ("http://consul:8500/", "http", Address("consul", 8500)),
        ("https://[::1]:8501", "https", Address("::1", 8501)),
    ],
)
def test_a_given_consul_is_read_as_its_own_tools_do(text, scheme, address):
    settings = MeshSettings.from_environment({"CONSUL_HTTP_ADDR": text, "CONSUL_HTTP_TOKEN": "t"})
    assert (settings.consul_scheme, settings.consul, settings.consul_token) == (scheme, address, "t")
    assert settings.consul_is_given


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"),
        ("CONSUL_HTTP_ADDR", "consul"),
        ("MESH_CONTROL_BIND", "127.0.0.1:65536"),
        ("MESH_REGISTRY", "etcd"),
        ("MESH_CONSUL_RPC_PORT", "0"),
        ("MESH_CONSUL_SERF_PORT", "many"),
        ("MESH_CERTIFICATE_LIFETIME", "9"),
        ("MESH_CERTIFICATE_LIFETIME", "1h"),
    ],
)
def test_a_wrong_value_names_its_variable(name, value):
    with pytest.raises(InvalidInput) as caught:
        MeshSettings.from_environment({name: value})
    assert caught.value.field == name
    assert caught.value.fix
