import asyncio
import json
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agentmesh.identity.v1 import identity_service_pb2 as pb
from mesh.errors import FailedPrecondition, Unavailable
from mesh.identity import Identity, open_identity
from mesh.identity import client as client_module
from mesh.identity.svid import read_svid_files
from mesh.model import Address
from mesh.runtime import open_background

SOON = 8.0

SHORT = timedelta(seconds=4)
"""Times in certificates are whole seconds: with a shorter life, a new one may be due for renewal already."""


async def wait_until(holds: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(SOON):
        while not holds():
            await asyncio.sleep(0.005)
    assert holds(), what


async def started(settings: Any, tokens: Any, clock: Any, *, random: Callable[[], float] = lambda: 0.0) -> Identity:
    identity = Identity(settings, tokens, clock=clock, random=random)
    await identity.start()
    return identity


def serial_of(address: Address) -> int:
    """The serial of the certificate that a server shows to a new connection."""
    pem = ssl.get_server_certificate((address.host, address.port), timeout=5)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


async def test_a_certificate_renews_itself_at_half_life_without_a_token(
    open_control_plane: Any, tokens_of: Any, tmp_path: Path
) -> None:
    async with open_control_plane(lifetime=SHORT) as control_plane:
        tokens = tokens_of(control_plane)
        async with open_identity(control_plane.settings(tmp_path / "id"), tokens) as identity:
            first = identity.current
            async with asyncio.timeout(SOON):
                await identity.wait_for_renewal()
            assert identity.current.private_key != first.private_key
            assert identity.current.expire_time > first.expire_time
            assert read_svid_files(tmp_path / "id") == identity.current
            sds = json.loads((tmp_path / "id" / "svid.json").read_text())["resources"][0]["tls_certificate"]
            assert sds["certificate_chain"]["inline_string"] == identity.current.certificate_chain
            assert sds["private_key"]["inline_string"] == identity.current.private_key
        assert len(tokens.given) == 1
        reasons = [signed.reason for signed in control_plane.authority.issued() if signed.reason != "control-plane"]
        assert "renewal" in reasons


@pytest.mark.parametrize(("random", "minutes"), [(0.0, 30.0), (0.5, 28.5), (1.0, 27.0)])
async def test_members_do_not_all_renew_at_once(
    control_plane: Any, tokens_of: Any, clock: Any, tmp_path: Path, random: float, minutes: float
) -> None:
    settings = control_plane.settings(tmp_path / "id")
    identity = await started(settings, tokens_of(control_plane), clock, random=lambda: random)
    clock.jump(minutes=minutes - 0.1)
    assert not identity.renewal_is_due
    clock.jump(minutes=0.2)
    assert identity.renewal_is_due


async def test_a_clock_that_jumps_past_the_end_falls_back_to_a_token(
    control_plane: Any, tokens_of: Any, clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_of(control_plane)
    identity = await started(control_plane.settings(tmp_path / "id"), tokens, clock)
    fetch = client_module.fetch_root

    async def fetch_root(*args: Any, **kwargs: Any) -> str:
        # Real TLS keeps the time of day; only the workload's belief about it has jumped.
        return await fetch(*args, **{**kwargs, "clock": lambda: clock() - clock.offset})

    monkeypatch.setattr(client_module, "fetch_root", fetch_root)
    clock.jump(hours=2)
    assert identity.renewal_is_due
    await identity.renew_now()
    assert len(tokens.given) == 2
    assert control_plane.control_servicer.requests == []


async def test_a_clock_that_is_set_back_gets_a_certificate_of_its_time(
    control_plane: Any, tokens_of: Any, clock: Any, tmp_path: Path
) -> None:
    clock.jump(minutes=4)
    tokens = tokens_of(control_plane)
    identity = await started(control_plane.settings(tmp_path / "id"), tokens, clock)
    clock.jump(minutes=-8)
    assert not identity.renewal_is_due
    await identity.renew_now()
    assert len(tokens.given) == 1
    clock.jump(minutes=-2)
    assert identity.renewal_is_due, "before its life, nobody would take the certificate"
    restarted = Identity(control_plane.settings(tmp_path / "id"), tokens, clock=clock)
    with pytest.raises(FailedPrecondition) as caught:
        await restarted.start()
    assert caught.value.reason == "CLOCKS_DIFFER"


async def test_clocks_that_differ_cause_no_storm_of_renewals(
    control_plane: Any, tokens_of: Any, clock: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tokens_of(control_plane)
    identity = await started(control_plane.settings(tmp_path / "id"), tokens, clock)
    clock.jump(minutes=45)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await identity.keep_fresh()
    assert len(control_plane.control_servicer.requests) == 1
    assert "identity_clocks_differ" in capsys.readouterr().err


async def test_a_control_plane_that_was_away_is_found_again(
    open_control_plane: Any, tokens_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_control_plane(lifetime=SHORT) as control_plane:
        ports = (control_plane.enrolment.port, control_plane.control.port)
        context = open_identity(control_plane.settings(tmp_path / "id"), tokens_of(control_plane))
        identity = await context.__aenter__()
    try:
        before = identity.current
        logged: list[str] = []

        def has_failed() -> bool:
            logged.append(capsys.readouterr().err)
            return "identity_renewal_failed" in "".join(logged)

        await wait_until(has_failed, "an attempt without a control plane fails and is logged")
        assert identity.current == before
        async with open_control_plane(lifetime=SHORT, ports=ports):
            await wait_until(lambda: identity.current != before, "the next attempts find it again")
    finally:
        await context.__aexit__(None, None, None)


async def test_attempts_to_renew_come_closer_to_each_other_before_the_end(
    open_control_plane: Any, tokens_of: Any, clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_control_plane() as control_plane:
        settings, tokens = control_plane.settings(tmp_path / "id"), tokens_of(control_plane)
        identity = await started(settings, tokens, clock, random=lambda: 1.0)
    end = identity.current.expire_time
    waits: list[tuple[float, float]] = []

    async def sleep(seconds: float) -> None:
        waits.append(((end - clock()).total_seconds(), seconds))
        clock.jump(seconds=seconds)
        if clock() > end:
            raise TimeoutError

    monkeypatch.setattr("mesh.identity.client.asyncio.sleep", sleep)
    clock.jump(seconds=(end - clock()).total_seconds() - 300)
    with pytest.raises(TimeoutError):
        await identity.keep_fresh()
    assert max(wait for _, wait in waits) == 15
    assert all(wait <= max(0.5, left / 4) + 0.01 for left, wait in waits)
    assert waits[-1][0] <= 1, "one attempt in the last second"


async def test_a_workload_starts_without_a_control_plane_while_its_certificate_lasts(
    open_control_plane: Any, tokens_of: Any, clock: Any, tmp_path: Path
) -> None:
    async with open_control_plane() as control_plane:
        settings, tokens = control_plane.settings(tmp_path / "id"), tokens_of(control_plane)
        await started(settings, tokens, clock)
    clock.jump(minutes=40)
    identity = await started(settings, tokens, clock)
    assert identity.renewal_is_due
    assert len(tokens.given) == 1
    clock.jump(minutes=20)
    with pytest.raises(Unavailable):
        await started(settings, tokens, clock)


async def test_what_is_wrong_with_the_source_of_tokens_is_not_hidden(
    control_plane: Any, tokens_of: Any, clock: Any, tmp_path: Path
) -> None:
    identity = await started(control_plane.settings(tmp_path / "id"), tokens_of(control_plane), clock)

    async def broken() -> str:
        raise ZeroDivisionError

    identity._token = broken
    clock.jump(hours=2)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(SOON), open_background(identity.keep_fresh()):
            await asyncio.Event().wait()


async def test_a_disk_that_is_full_keeps_the_old_identity_until_there_is_room(
    control_plane: Any, tokens_of: Any, tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await started(control_plane.settings(tmp_path / "id"), tokens_of(control_plane), clock)
    before = identity.current

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FailedPrecondition, match="No space left") as caught:
        await identity.renew_now()
    assert caught.value.field.startswith(str(tmp_path / "id"))
    assert identity.current == before == read_svid_files(tmp_path / "id")
    monkeypatch.undo()
    await identity.renew_now()
    assert identity.current == read_svid_files(tmp_path / "id") != before


async def test_the_servers_certificate_renews_itself_and_connections_stay(
    open_control_plane: Any, tokens_of: Any, open_stub: Any, clock: Any, tmp_path: Path
) -> None:
    async with open_control_plane(clock=clock, tls_lifetime=timedelta(minutes=4)) as control_plane:
        settings = control_plane.settings(tmp_path / "id")
        async with (
            open_identity(settings, tokens_of(control_plane)) as identity,
            open_stub(control_plane.control, identity=identity) as stub,
        ):
            await stub.GetTrustBundle(pb.GetTrustBundleRequest(), timeout=5)
            before = await asyncio.to_thread(serial_of, control_plane.enrolment)
            assert await asyncio.to_thread(serial_of, control_plane.enrolment) == before
            clock.jump(minutes=2.5)
            after = await asyncio.to_thread(serial_of, control_plane.enrolment)
            assert after != before
            assert await asyncio.to_thread(serial_of, control_plane.enrolment) == after
            await stub.GetTrustBundle(pb.GetTrustBundleRequest(), timeout=5)
            async with open_stub(control_plane.control, identity=identity) as new:
                await new.GetTrustBundle(pb.GetTrustBundleRequest(), timeout=5)
            await stub.GetTrustBundle(pb.GetTrustBundleRequest(), timeout=5)
        first, second, other, last = control_plane.control_servicer.connections
        assert first == second == last != other


async def test_the_servers_certificate_follows_a_clock_that_is_set_back(open_control_plane: Any, clock: Any) -> None:
    clock.jump(minutes=4)
    async with open_control_plane(clock=clock) as control_plane:
        before = await asyncio.to_thread(serial_of, control_plane.enrolment)
        clock.jump(minutes=-6)
        assert await asyncio.to_thread(serial_of, control_plane.enrolment) != before


async def test_a_root_that_has_ended_fails_renewals_and_not_the_server(
    open_control_plane: Any, clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_control_plane(clock=clock) as control_plane:
        before = await asyncio.to_thread(serial_of, control_plane.enrolment)
        clock.jump(days=4000)
        assert await asyncio.to_thread(serial_of, control_plane.enrolment) == before
        assert "server_certificate_not_renewed" in capsys.readouterr().err
        clock.jump(days=-4000)
