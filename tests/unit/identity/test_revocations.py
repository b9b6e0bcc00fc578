"""Services that are shut out: no certificates, on disk, and seen by other processes."""

from pathlib import Path
from typing import Any

import pytest

from mesh.errors import FailedPrecondition, InvalidInput, PermissionDenied
from mesh.identity import CertificateAuthority, Revocations
from mesh.identity.svid import create_key
from mesh.model import SpiffeId

A = SpiffeId("test.local", "default", "a")


def test_nothing_is_signed_for_a_revoked_service_until_it_is_restored(
    authority: CertificateAuthority, clock: Any
) -> None:
    authority.revocations.revoke("a", clock())
    with pytest.raises(PermissionDenied, match="meshctl certs restore a") as refused:
        authority.sign(create_key()[1], A, reason="test")
    assert refused.value.reason == "IDENTITY_REVOKED"
    authority.revocations.restore("a")
    assert authority.sign(create_key()[1], A, reason="test")


def test_a_revocation_is_there_after_a_new_start_and_for_other_processes(folder: Path, clock: Any) -> None:
    folder.mkdir(exist_ok=True)
    one, other = Revocations(folder), Revocations(folder)
    one.revoke("a", clock())
    assert other.reload() and other.services == frozenset({"a"})
    other.revoke("b", clock())
    one.revoke("c", clock())
    assert Revocations(folder).services == frozenset("abc")
    assert (folder / "revoked.json").stat().st_mode & 0o777 == 0o600


def test_a_service_stays_revoked_since_the_first_time(folder: Path, clock: Any) -> None:
    revocations = Revocations(folder)
    revocations.revoke("a", clock())
    since = clock()
    clock.jump(hours=1)
    revocations.revoke("a", clock())
    assert revocations.since("a") == since


def test_only_names_of_services_are_revoked(folder: Path, clock: Any) -> None:
    with pytest.raises(InvalidInput):
        Revocations(folder).revoke("No Name", clock())


def test_a_damaged_file_is_named_and_lets_nobody_in(folder: Path, clock: Any) -> None:
    Revocations(folder).revoke("a", clock())
    (folder / "revoked.json").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"revoked\.json"):
        Revocations(folder)
