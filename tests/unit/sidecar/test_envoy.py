import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import FailedPrecondition, Unavailable
from mesh.model import Address, ProxySpec, SpiffeId
from mesh.sidecar import ControlPlane, Envoy, EnvoySettings, envoy, find_envoy
from mesh.sidecar.admin import Traffic
from mesh.sidecar.run_dir import RunDirectory

QUIET = Traffic(active=0, buffered=0, total=9)
BUSY = Traffic(active=1, buffered=0, total=10)
SLOW_READER = Traffic(active=0, buffered=100, total=10)
QUIET_AFTER = Traffic(active=0, buffered=0, total=10)
AWAY = Unavailable("Envoy does not answer.")


class FakeProcess:
    pid = 7
    is_running = True


class FakeAdmin:
    """Answers with each of `traffic`, and with the last one for ever."""

    def __init__(self, traffic: Iterable[Traffic | Unavailable], drains: Iterable[Unavailable | None] = ()) -> None:
        self.traffic = list(traffic)
        self.drains = list(drains)
        self.was_drained = 0
        self.on_read: Callable[[], None] = lambda: None

    async def drain(self) -> None:
        self.was_drained += 1
        if self.drains and (error := self.drains.pop(0)) is not None:
            raise error

    async def read_traffic(self, listeners: tuple[str, ...]) -> Traffic:
        self.on_read()
        found = self.traffic.pop(0) if len(self.traffic) > 1 else self.traffic[0]
        if isinstance(found, Unavailable):
            raise found
        return found


def envoy_with(admin: Any, process: Any | None = None) -> Envoy:
    spec = ProxySpec("echo", "echo-1", outbound_socket="/o", secrets_dir="/s")
    control = ControlPlane((Address("127.0.0.1", 1),), SpiffeId("test.local", "default", "control-plane"))
    return Envoy(EnvoySettings(spec, control, RunDirectory(Path("/nowhere"))), process or FakeProcess(), admin)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy, "_POLL", 0.0)


async def test_it_drains_once_and_waits_until_nothing_is_in_flight() -> None:
    admin = FakeAdmin([BUSY, BUSY, SLOW_READER, QUIET_AFTER])
    assert await envoy_with(admin).drain(5.0)
    assert admin.was_drained == 1
    assert admin.traffic == [QUIET_AFTER]


async def test_a_pause_between_two_calls_is_not_the_end() -> None:
    admin = FakeAdmin([QUIET, BUSY, QUIET_AFTER, QUIET_AFTER, BUSY])
    assert await envoy_with(admin).drain(5.0)
    assert admin.traffic == [BUSY], "it looked four times"


async def test_calls_that_do_not_end_are_told_after_the_grace() -> None:
    assert not await envoy_with(FakeAdmin([BUSY])).drain(0.05)


async def test_an_envoy_that_is_slow_to_answer_is_asked_again(logs: list[Any]) -> None:
    admin = FakeAdmin([AWAY, AWAY, BUSY, AWAY, QUIET_AFTER], drains=[AWAY, AWAY, None])
    assert await envoy_with(admin).drain(5.0)
    assert admin.was_drained == 3
    assert [line["event"] for line in logs] == ["drain_hindered"], "once, not at each attempt"


async def test_an_envoy_that_dies_meanwhile_has_nothing_left_to_drain() -> None:
    process, admin = FakeProcess(), FakeAdmin([BUSY])
    admin.on_read = lambda: setattr(process, "is_running", False)
    async with asyncio.timeout(5):
        assert await envoy_with(admin, process).drain(60.0)


async def test_an_envoy_that_was_restarted_meanwhile_has_nothing_left_to_drain() -> None:
    process, admin = FakeProcess(), FakeAdmin([BUSY])
    admin.on_read = lambda: setattr(process, "pid", 8)
    async with asyncio.timeout(5):
        assert await envoy_with(admin, process).drain(60.0)


async def test_waiting_for_quiet_does_not_drain() -> None:
    admin = FakeAdmin([QUIET])
    assert await envoy_with(admin).wait_quiet(5.0)
    assert admin.was_drained == 0


def test_envoy_of_the_wheel_is_found() -> None:
    assert find_envoy().name == "envoy"


def test_an_envoy_that_is_named_is_used(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = short_dir / "own-envoy"
    monkeypatch.setenv("MESH_ENVOY", str(own))
    with pytest.raises(FailedPrecondition, match=f"no Envoy at {own}") as caught:
        find_envoy()
    assert caught.value.field == "MESH_ENVOY"
    own.write_text("#!/bin/sh\n")
    with pytest.raises(FailedPrecondition):
        find_envoy()
    own.chmod(0o755)
    assert find_envoy() == own


@pytest.mark.parametrize(
    ("soft", "most"), [(1024, 512), (1, 1), (1 << 20, 10_000), (envoy.resource.RLIM_INFINITY, 10_000)]
)
def test_connections_are_bounded_by_the_files_that_may_be_open(
    soft: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envoy.resource, "getrlimit", lambda _: (soft, soft))
    assert envoy._most_connections() == most
