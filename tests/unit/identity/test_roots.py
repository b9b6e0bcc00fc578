"""Rotation of the root: what signs and what is trusted at each stage, and what a crash or another process leaves."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import FailedPrecondition, InvalidInput
from mesh.identity import CertificateAuthority, Stage, Svid, next_of
from mesh.identity import roots as roots_module
from mesh.identity.root import ROOT_LIFETIME
from mesh.identity.roots import MARGIN, RENEW_BEFORE_END
from mesh.identity.svid import create_key
from mesh.model import SpiffeId

A = SpiffeId("test.local", "default", "a")
HOUR = timedelta(hours=1)


def open_authority(folder: Path, clock: Any) -> CertificateAuthority:
    return CertificateAuthority.open(folder, trust_domain="test.local", clock=clock)


def signed_pem(authority: CertificateAuthority, *, is_anchored: bool = False) -> tuple[str, str]:
    key, csr = create_key()
    return authority.sign(csr, A, reason="test", is_anchored=is_anchored).chain_pem, key


def is_trusted(leaf: tuple[str, str], bundle: str) -> bool:
    try:
        Svid.from_pem(*leaf, bundle)
    except InvalidInput:
        return False
    return True


def wait_stage(clock: Any) -> None:
    clock.jump(seconds=(HOUR + MARGIN).total_seconds())


def test_a_member_always_trusts_what_another_one_shows_while_each_renews_within_a_lifetime(
    folder: Path, clock: Any
) -> None:
    """Members that renewed last just before, or just after, a change of stage are the worst cases."""
    authority = open_authority(folder, clock)
    old = authority.fingerprint
    oldest = signed_pem(authority), authority.bundle_pem
    authority.start_rotation()
    distributed = signed_pem(authority), authority.bundle_pem
    for leaf, _ in (oldest, distributed):
        assert is_trusted(leaf, oldest[1]) and is_trusted(leaf, distributed[1])
    wait_stage(clock)
    assert authority.advance_rotation(HOUR).stage is Stage.SWITCHING
    switched = signed_pem(authority), authority.bundle_pem
    for leaf, _ in (distributed, switched):
        assert is_trusted(leaf, distributed[1]) and is_trusted(leaf, switched[1])
    wait_stage(clock)
    assert authority.advance_rotation(HOUR).stage is Stage.STEADY
    newest = signed_pem(authority), authority.bundle_pem
    for leaf, _ in (switched, newest):
        assert is_trusted(leaf, switched[1]) and is_trusted(leaf, newest[1])
    assert not is_trusted(oldest[0], newest[1])
    assert authority.fingerprint != old


def test_no_stage_ends_before_a_lifetime_is_over(folder: Path, clock: Any) -> None:
    authority = open_authority(folder, clock)
    authority.start_rotation()
    clock.jump(seconds=HOUR.total_seconds())
    assert authority.advance_rotation(HOUR).stage is Stage.DISTRIBUTING
    assert "new root signs" in next_of(authority.roots, HOUR)


def test_a_token_relies_on_a_root_that_the_port_for_first_certificates_shows_until_that_root_goes(
    folder: Path, clock: Any
) -> None:
    authority = open_authority(folder, clock)
    first = authority.fingerprint
    old_bundle = authority.bundle_pem
    authority.start_rotation()
    wait_stage(clock)
    authority.advance_rotation(HOUR)
    assert authority.fingerprint == first
    assert is_trusted(signed_pem(authority, is_anchored=True), old_bundle)
    assert not is_trusted(signed_pem(authority), old_bundle)
    wait_stage(clock)
    authority.advance_rotation(HOUR)
    assert authority.fingerprint != first


def test_a_rotation_under_way_is_not_begun_again(folder: Path, clock: Any) -> None:
    authority = open_authority(folder, clock)
    authority.start_rotation()
    with pytest.raises(FailedPrecondition, match="under way"):
        authority.start_rotation()


def test_each_stage_survives_a_new_start_and_is_seen_by_another_process(folder: Path, clock: Any) -> None:
    authority, other = open_authority(folder, clock), open_authority(folder, clock)
    authority.start_rotation()
    for stage in (Stage.DISTRIBUTING, Stage.SWITCHING, Stage.STEADY):
        assert authority.roots.stage is stage
        other.reload()
        for one in (other, open_authority(folder, clock)):
            assert one.bundle_pem == authority.bundle_pem
            assert one.fingerprint == authority.fingerprint
        wait_stage(clock)
        authority.advance_rotation(HOUR)
    keys = sorted(path.name for path in folder.glob("*.key") if path.name != "token.key")
    assert keys == [f"{authority.roots.signer.name}.key"]


def test_a_crash_before_the_commit_leaves_the_old_root(
    folder: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = open_authority(folder, clock)
    write = roots_module.write_file

    def crash(path: Path, content: bytes, *, mode: int) -> None:
        if path.name == "roots.json":
            raise KeyboardInterrupt
        write(path, content, mode=mode)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(roots_module, "write_file", crash)
        authority.start_rotation()
    after = open_authority(folder, clock)
    assert (after.bundle_pem, after.roots.stage) == (authority.bundle_pem, Stage.STEADY)
    assert after.start_rotation().stage is Stage.DISTRIBUTING


def test_a_root_is_replaced_by_itself_a_year_before_it_ends(folder: Path, clock: Any) -> None:
    authority = open_authority(folder, clock)
    clock.jump(seconds=(ROOT_LIFETIME - RENEW_BEFORE_END).total_seconds() - 1)
    assert authority.advance_rotation(HOUR).stage is Stage.STEADY
    clock.jump(seconds=2)
    assert authority.advance_rotation(HOUR).stage is Stage.DISTRIBUTING


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"signer": "root", "other": null, "stage": "x", "since": null}'])
def test_a_damaged_state_of_rotation_is_named(folder: Path, clock: Any, content: str) -> None:
    open_authority(folder, clock)
    (folder / "roots.json").write_text(content)
    with pytest.raises(FailedPrecondition, match=r"roots\.json"):
        open_authority(folder, clock)


def test_a_missing_key_of_a_root_is_named(folder: Path, clock: Any) -> None:
    authority = open_authority(folder, clock)
    authority.start_rotation()
    name = json.loads((folder / "roots.json").read_text())["other"]
    (folder / f"{name}.key").unlink()
    with pytest.raises(FailedPrecondition, match=rf"{name}\.key"):
        open_authority(folder, clock)


def test_all_files_of_a_rotation_are_private(folder: Path, clock: Any) -> None:
    open_authority(folder, clock).start_rotation()
    assert {path.name for path in folder.iterdir() if path.stat().st_mode & 0o077} == set()
