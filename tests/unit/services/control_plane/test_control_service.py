"""What the control plane takes as a declaration, and what it answers of services."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from agentmesh.control.v1 import control_service_pb2 as pb
from mesh.config import DeclarationStore
from mesh.discovery import Leadership
from mesh.errors import FailedPrecondition, InvalidInput, NotFound
from mesh.model import Instance
from mesh.state import MeshState, StateStore
from services.control_plane.control_service import ControlServicer
from services.control_plane.replicas import Replicas
from services.control_plane.reserved_names import MOST_UPSTREAMS

NOBODY = cast(Any, None)


@pytest.fixture
def store() -> StateStore:
    return StateStore(MeshState("test.local", "default"))


@pytest.fixture
def told() -> list[str]:
    """The services whose declarations others were told of."""
    return []


@pytest.fixture
def control(store: StateStore, tmp_path: Path, told: list[str]) -> ControlServicer:
    return ControlServicer(
        NOBODY,
        authority=NOBODY,
        tokens=NOBODY,
        declarations=DeclarationStore.open(tmp_path / "declarations.json"),
        store=store,
        registry=NOBODY,
        follower=NOBODY,
        ads=NOBODY,
        started=datetime.now(UTC),
        draining=asyncio.Event(),
        replicas=Replicas(Leadership.alone("127.0.0.1:1"), told.append),
    )


def declare(control: ControlServicer, name: str, kind: str = "service", *upstreams: str):
    return control.DeclareService(pb.DeclareServiceRequest(name=name, kind=kind, upstreams=upstreams), NOBODY)


async def test_a_declaration_is_told_with_its_upstreams_sorted_and_each_once(control: ControlServicer) -> None:
    await declare(control, "a", "agent", "c", "b", "c")
    (service,) = (await control.ListServices(pb.ListServicesRequest(), NOBODY)).services
    assert (service.name, service.kind, list(service.upstreams)) == ("a", "agent", ["b", "c"])


async def test_an_upstream_that_is_no_name_is_found_where_it_stands_in_the_request(control: ControlServicer) -> None:
    with pytest.raises(InvalidInput) as caught:
        await declare(control, "a", "agent", "z", "y", "No Name", "b")
    assert caught.value.field == "upstreams[2]"


@pytest.mark.parametrize("kind", ["", "servic", "AGENT"])
async def test_an_unknown_kind_is_refused_with_the_known_ones(control: ControlServicer, kind: str) -> None:
    with pytest.raises(InvalidInput, match="agent, "):
        await declare(control, "a", kind)


async def test_upstreams_are_bounded(control: ControlServicer, store: StateStore) -> None:
    with pytest.raises(InvalidInput) as caught:
        await declare(control, "a", "agent", *(f"s{number}" for number in range(MOST_UPSTREAMS + 1)))
    assert caught.value.field == "upstreams"
    assert not store.current.declarations


@pytest.mark.parametrize("is_healthy", [True, False])
async def test_the_kind_of_what_runs_cannot_be_changed(
    control: ControlServicer, store: StateStore, is_healthy: bool
) -> None:
    instance = Instance(service="a", id="a-1", address="127.0.0.1", port=1, kind="mcp", is_healthy=is_healthy)
    store.set_services({"a": (instance,)})
    await declare(control, "a", "mcp", "b")
    if is_healthy:
        with pytest.raises(FailedPrecondition, match="runs as kind mcp"):
            await declare(control, "a", "agent")
    else:
        await declare(control, "a", "agent")
    assert store.current.declarations["a"].kind == ("mcp" if is_healthy else "agent")


async def forget(control: ControlServicer, name: str):
    return await control.ForgetService(pb.ForgetServiceRequest(name=name), NOBODY)


async def test_a_service_that_has_left_is_forgotten_here_and_by_the_others(
    store: StateStore, tmp_path: Path, control: ControlServicer, told: list[str]
) -> None:
    await declare(control, "a", "agent", "b")
    await declare(control, "b")
    told.clear()
    await forget(control, "a")
    assert set(store.current.declarations) == {"b"}
    assert set(DeclarationStore.open(tmp_path / "declarations.json").declarations) == {"b"}
    assert told == ["a"]


@pytest.mark.parametrize("is_healthy", [True, False])
async def test_a_service_that_has_instances_is_not_forgotten(
    control: ControlServicer, store: StateStore, is_healthy: bool
) -> None:
    await declare(control, "a")
    store.set_services({"a": (Instance("a", "a-1", "127.0.0.1", 1, is_healthy=is_healthy),)})
    with pytest.raises(FailedPrecondition, match="a-1") as caught:
        await forget(control, "a")
    assert caught.value.reason == "HAS_INSTANCES"
    assert "a" in store.current.declarations


async def test_to_forget_what_is_not_declared_names_the_nearest(control: ControlServicer) -> None:
    await declare(control, "financial")
    with pytest.raises(NotFound, match="Did you mean financial") as caught:
        await forget(control, "financal")
    assert caught.value.field == "name"


async def test_to_forget_what_is_no_name_is_refused(control: ControlServicer) -> None:
    with pytest.raises(InvalidInput) as caught:
        await forget(control, "No Name")
    assert caught.value.field == "name"
