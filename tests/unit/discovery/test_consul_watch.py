from collections.abc import Mapping

import pytest

from mesh.discovery.consul_client import ConsulEndpoint
from mesh.discovery.consul_watch import SLOW_PASS, ServiceView
from mesh.errors import FailedPrecondition, PermissionDenied, Unavailable
from mesh.model import Address

NODE = {"Node": "n", "CheckID": "serfHealth", "ModifyIndex": 1, "ServiceName": "", "ServiceTags": []}


class FakeConsul:
    """Answers like ConsulClient from a table of services; `asked` are the names that were read."""

    def __init__(self) -> None:
        self.endpoint = ConsulEndpoint(Address("127.0.0.1", 8500))
        self.index = 10
        self.nodes = [NODE]
        self.ports: dict[str, int] = {}
        self.indexes: dict[str, int] = {}
        self.unchecked: dict[str, int] = {}
        self.foreign: set[str] = set()
        self.is_silent = False
        self.failing: set[str] = set()
        self.asked: list[str] = []
        self.indexes_asked: list[int | None] = []

    def set(self, name: str, port: int) -> None:
        self.index += 1
        self.ports[name] = port
        self.indexes[name] = self.index

    def take(self) -> list[str]:
        asked, self.asked = self.asked, []
        return sorted(asked)

    async def checks(self, index: int | None) -> tuple[int, list[Mapping[str, object]]]:
        self.indexes_asked.append(index)
        members = [
            {"Node": "n", "CheckID": name, "ModifyIndex": at, "ServiceName": name, "ServiceTags": ["agentmesh"]}
            for name, at in self.indexes.items()
        ]
        return self.index, [*self.nodes, *members]

    async def tags(self) -> Mapping[str, list[str]]:
        if self.is_silent:
            return {}
        return {"consul": []} | {name: ["agentmesh"] for name in [*self.ports, *self.unchecked]}

    async def health(self, service: str) -> list[Mapping[str, object]]:
        self.asked.append(service)
        if service in self.failing:
            raise Unavailable("away")
        port = self.ports.get(service) or self.unchecked.get(service)
        if port is None:
            return []
        is_marked = service in self.ports and service not in self.foreign
        return [
            {
                "Node": {"Node": "n", "Address": "10.0.0.1"},
                "Service": {"ID": service, "Address": "", "Port": port, "Tags": ["agentmesh"], "Meta": None},
                "Checks": [{"Status": "passing", "Output": "", "Notes": "agentmesh 1" if is_marked else ""}],
            }
        ]

    async def agent_id(self) -> str:
        if self.is_silent:
            raise PermissionDenied("no")
        return "id"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def consul():
    fake = FakeConsul()
    fake.set("financial", 1)
    fake.set("utilities", 2)
    return fake


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def view(clock):
    return ServiceView(clock=clock)


def ports(view):
    return {name: found[0].port for name, found in view.services.items()}


async def test_one_change_reads_one_service(view, consul):
    assert await view.refresh(consul)
    assert consul.take() == ["financial", "utilities"]
    consul.set("utilities", 3)
    assert await view.refresh(consul)
    assert consul.take() == ["utilities"]
    assert ports(view) == {"financial": 1, "utilities": 3}


async def test_a_wake_up_for_other_reasons_reads_nothing(view, consul):
    await view.refresh(consul)
    consul.take()
    consul.index += 5
    assert not await view.refresh(consul)
    assert consul.take() == []


async def test_the_second_query_waits_on_the_index_of_the_first(view, consul):
    await view.refresh(consul)
    await view.refresh(consul)
    assert consul.indexes_asked == [None, 12]


async def test_an_index_of_zero_is_never_waited_on(view, consul):
    consul.index = 0
    await view.refresh(consul)
    await view.refresh(consul)
    assert consul.indexes_asked == [None, 1]


async def test_an_index_that_goes_backwards_reads_everything_again(view, consul):
    await view.refresh(consul)
    consul.take()
    consul.index = 3
    consul.ports["financial"] = 9
    assert await view.refresh(consul)
    assert consul.take() == ["financial", "utilities"]
    assert ports(view)["financial"] == 9
    await view.refresh(consul)
    assert consul.indexes_asked[-1] == 3


async def test_a_service_without_checks_left_is_gone(view, consul):
    await view.refresh(consul)
    del consul.ports["utilities"], consul.indexes["utilities"]
    assert await view.refresh(consul)
    assert ports(view) == {"financial": 1}


async def test_a_failure_keeps_the_services_and_is_made_up_for(view, consul):
    await view.refresh(consul)
    consul.set("financial", 5)
    consul.failing = {"financial"}
    with pytest.raises(Unavailable):
        await view.refresh(consul)
    assert ports(view) == {"financial": 1, "utilities": 2}
    consul.failing = set()
    assert await view.refresh(consul)
    assert ports(view)["financial"] == 5


async def test_services_without_checks_are_found_by_a_slow_pass(view, consul, clock):
    await view.refresh(consul)
    consul.unchecked["database"] = 5432
    assert not await view.refresh(consul)
    clock.now += SLOW_PASS
    assert await view.refresh(consul)
    assert ports(view)["database"] == 5432
    consul.set("financial", 7)
    await view.refresh(consul)
    assert ports(view)["database"] == 5432
    del consul.unchecked["database"]
    clock.now += SLOW_PASS
    assert await view.refresh(consul)
    assert "database" not in ports(view)


async def test_a_slow_pass_reads_again_what_others_registered(view, consul, clock):
    consul.foreign = {"utilities"}
    await view.refresh(consul)
    consul.take()
    consul.ports["utilities"] = 8
    clock.now += SLOW_PASS
    assert await view.refresh(consul)
    assert consul.take() == ["utilities"]
    assert ports(view)["utilities"] == 8


async def test_a_token_that_sees_no_service_is_denied_and_nothing_is_dropped(view, consul, clock):
    await view.refresh(consul)
    consul.is_silent = True
    consul.indexes.clear()
    clock.now += SLOW_PASS
    with pytest.raises(PermissionDenied):
        await view.refresh(consul)
    assert ports(view) == {"financial": 1, "utilities": 2}


async def test_a_consul_that_shows_no_node_is_not_an_empty_one(view, consul):
    await view.refresh(consul)
    consul.nodes = []
    consul.indexes.clear()
    with pytest.raises(Unavailable, match="shows no node"):
        await view.refresh(consul)
    consul.is_silent = True
    with pytest.raises(PermissionDenied):
        await view.refresh(consul)
    assert ports(view) == {"financial": 1, "utilities": 2}


async def test_a_name_that_no_member_can_have_is_left_out(view, consul):
    consul.set("Not_A_Name", 5)
    await view.refresh(consul)
    assert "Not_A_Name" not in view.services


async def test_checks_of_another_form_are_no_consul(view, consul):
    consul.nodes = [NODE | {"ModifyIndex": "soon"}]
    with pytest.raises(FailedPrecondition, match="is not Consul"):
        await view.refresh(consul)
