import asyncio

import pytest

from mesh.errors import FailedPrecondition, InvalidInput, ResourceExhausted
from services.gateway import health_desk
from services.gateway.health_desk import HealthDesk


@pytest.mark.parametrize("name", ["No Name", "a.b", "../x", "x" * 64])
async def test_what_is_no_name_is_refused_without_a_call(name: str) -> None:
    with pytest.raises(InvalidInput):
        await HealthDesk().is_healthy(name)


async def test_without_a_sidecar_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESH_OUTBOUND", raising=False)
    with pytest.raises(FailedPrecondition, match="no sidecar"):
        await HealthDesk().is_healthy("financial")


async def test_more_checks_than_there_is_room_for_are_refused_and_room_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish = asyncio.Event()

    async def check(service: str, channel: object) -> bool:
        await finish.wait()
        return True

    monkeypatch.setattr(health_desk, "_check", check)
    monkeypatch.setattr(health_desk, "_MOST_AT_ONCE", 2)
    monkeypatch.setenv("MESH_OUTBOUND", "unix:/nowhere.sock")
    desk = HealthDesk()
    asking = [asyncio.create_task(desk.is_healthy(name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await desk.is_healthy("c")
    finish.set()
    assert await asyncio.gather(*asking) == [True, True]
    assert await desk.is_healthy("c")
