"""Which registry `meshctl up` takes, and what a member does about it."""

from pathlib import Path

import pytest

from mesh.config import MeshSettings
from mesh.discovery import ConsulRegistry
from mesh.errors import FailedPrecondition, Unavailable
from services.meshctl import registry
from services.meshctl.up import check_ports


def settings_of(**environment: str) -> MeshSettings:
    return MeshSettings.from_environment(environment)


@pytest.fixture
def no_consul(monkeypatch):
    def find(*_, **__):
        raise FailedPrecondition("There is no `consul` in PATH.", reason="NO_CONSUL", fix="Install it.")

    monkeypatch.setattr(registry, "find_consul", find)


@pytest.fixture
def some_consul(monkeypatch):
    monkeypatch.setattr(registry, "find_consul", lambda *_, **__: Path("/usr/bin/consul"))


async def choose(**environment: str) -> tuple[str, list[str]]:
    said: list[str] = []
    chosen = await registry.choose_registry(settings_of(**environment), say=said.append)
    return chosen.registry, said


@pytest.mark.usefixtures("no_consul")
async def test_where_no_consul_is_to_be_had_up_says_so_and_goes_on():
    kind, said = await choose()
    assert kind == "embedded"
    assert said == ["no Consul: There is no `consul` in PATH."]


@pytest.mark.usefixtures("no_consul")
async def test_who_asks_for_consul_gets_it_or_an_error():
    with pytest.raises(FailedPrecondition, match="no `consul`"):
        await choose(MESH_REGISTRY="consul")


@pytest.mark.usefixtures("some_consul")
@pytest.mark.parametrize("setting", ["", "auto", "consul"])
async def test_a_consul_on_the_machine_is_used(setting):
    assert await choose(MESH_REGISTRY=setting) == ("consul", [])


@pytest.mark.usefixtures("no_consul")
async def test_a_consul_that_is_given_is_used_without_looking_for_another():
    assert await choose(CONSUL_HTTP_ADDR="10.0.0.1:8500") == ("consul", [])


@pytest.mark.usefixtures("some_consul")
async def test_the_embedded_one_is_used_when_it_is_asked_for_whatever_else_there_is():
    assert await choose(MESH_REGISTRY="embedded", CONSUL_HTTP_ADDR="10.0.0.1:8500") == ("embedded", [])


def asked(monkeypatch, *answers):
    """Let the control planes answer so, one after the other; gives whom was asked."""
    found, left = [], list(answers)

    class Client:
        def __init__(self, target):
            self.target = target

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            return None

        async def kind(self):
            found.append(self.target)
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(registry, "open_registry_client", lambda target, identity: Client(target))
    return found


PLANES = "127.0.0.1:1,127.0.0.1:2"


async def test_a_member_asks_the_control_planes_until_one_answers(monkeypatch):
    found = asked(monkeypatch, Unavailable("away"), "consul")
    async with registry.registry_of(settings_of(MESH_CONTROL_PLANES=PLANES))(None) as members:
        assert isinstance(members, ConsulRegistry)
    assert found == ["127.0.0.1:1", "127.0.0.1:2"]


async def test_a_member_of_a_mesh_with_a_registry_of_its_own_uses_that(monkeypatch):
    asked(monkeypatch, "embedded")
    async with registry.registry_of(settings_of(MESH_CONTROL_BIND="127.0.0.1:7"))(None) as members:
        assert members.target == "127.0.0.1:7"


async def test_a_member_that_was_given_a_consul_that_the_mesh_does_not_use_hears_of_it(monkeypatch):
    asked(monkeypatch, "embedded")
    with pytest.raises(FailedPrecondition) as caught:
        async with registry.registry_of(settings_of(CONSUL_HTTP_ADDR="10.0.0.1:8500"))(None):
            pass
    assert caught.value.field == "CONSUL_HTTP_ADDR"


async def test_a_setting_spares_the_question(monkeypatch):
    assert asked(monkeypatch) == []
    async with registry.registry_of(settings_of(MESH_REGISTRY="consul"))(None) as members:
        assert isinstance(members, ConsulRegistry)


def test_a_mesh_without_consul_needs_no_port_for_it():
    check_ports(settings_of(MESH_REGISTRY="embedded", MESH_CONSUL_BIND="127.0.0.1:0"))
