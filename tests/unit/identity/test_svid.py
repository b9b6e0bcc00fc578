import json
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from mesh.errors import FailedPrecondition, InvalidInput
from mesh.identity import CertificateAuthority, Svid, svid, write_svid_files
from mesh.identity.svid import create_csr, create_key, read_svid_files
from mesh.model import SpiffeId

A = SpiffeId("test.local", "default", "a")
FILES = ("bundle.json", "svid.json", "bundle.pem", "key.pem", "svid.pem")
NewSvid = Callable[[], Svid]


@pytest.fixture
def new_svid(authority: CertificateAuthority) -> NewSvid:
    def build() -> Svid:
        key, csr = create_key()
        return Svid.from_pem(authority.sign(csr, A, reason="test").chain_pem, key, authority.bundle_pem)

    return build


def test_identity_and_times_are_those_of_the_certificate(new_svid: NewSvid, clock: Any) -> None:
    found = new_svid()
    assert found.spiffe_id == A
    assert found.issue_time == clock()
    assert found.renew_time == clock() + timedelta(minutes=30)
    assert found.expire_time == clock() + timedelta(hours=1)


@pytest.mark.parametrize(
    ("minutes", "is_valid"), [(-6, False), (-4, True), (0, True), (59, True), (60, False), (600, False)]
)
def test_a_certificate_is_valid_from_a_little_before_its_issue_to_its_end(
    new_svid: NewSvid, clock: Any, minutes: int, *, is_valid: bool
) -> None:
    assert new_svid().is_valid_at(clock() + timedelta(minutes=minutes)) is is_valid


def test_the_key_is_not_shown(new_svid: NewSvid) -> None:
    found = new_svid()
    assert "PRIVATE" not in repr(found) and found.private_key not in repr(found)


def test_parts_that_do_not_belong_together_are_refused(
    new_svid: NewSvid, tmp_path: Path, authority: CertificateAuthority, clock: Any
) -> None:
    one, two = new_svid(), new_svid()
    # The same names, another key: only the signature tells them apart.
    namesake = CertificateAuthority.open(tmp_path / "namesake", trust_domain="test.local", clock=clock)
    for parts in (
        (one.certificate_chain, two.private_key, one.trust_bundle),
        (one.certificate_chain, one.private_key, namesake.bundle_pem),
        (one.trust_bundle, one.private_key, one.trust_bundle),
        ("", one.private_key, one.trust_bundle),
        (one.certificate_chain, "garbage", one.trust_bundle),
        (one.certificate_chain, one.private_key, ""),
    ):
        with pytest.raises(InvalidInput):
            Svid.from_pem(*parts)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_certificate_with_a_changed_bit_is_refused_and_never_a_crash(new_svid: NewSvid) -> None:
    found = new_svid()
    der = x509.load_pem_x509_certificate(found.certificate_chain.encode()).public_bytes(serialization.Encoding.DER)
    for position in range(len(der) * 8):
        changed = bytearray(der)
        changed[position // 8] ^= 1 << position % 8
        pem = ssl.DER_cert_to_PEM_cert(bytes(changed))
        try:
            accepted = Svid.from_pem(pem, found.private_key, found.trust_bundle)
        except InvalidInput:
            continue
        # Only what is outside of the signed part, and says nothing.
        assert replace(accepted, certificate_chain="") == replace(found, certificate_chain="")


def test_a_key_of_another_kind_makes_no_request() -> None:
    with pytest.raises(InvalidInput):
        create_csr("garbage")


def test_files_are_private_and_come_back(new_svid: NewSvid, tmp_path: Path) -> None:
    found = new_svid()
    write_svid_files(tmp_path / "id", found)
    assert {path.name for path in (tmp_path / "id").iterdir()} == {*FILES, "lock"}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "id").iterdir()} == {0o600}
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o700
    assert read_svid_files(tmp_path / "id") == found


def test_files_are_what_envoy_reads(new_svid: NewSvid, tmp_path: Path) -> None:
    found = new_svid()
    write_svid_files(tmp_path, found)
    (secret,) = json.loads((tmp_path / "svid.json").read_text())["resources"]
    (bundle,) = json.loads((tmp_path / "bundle.json").read_text())["resources"]
    assert secret["@type"].endswith("tls.v3.Secret") and secret["name"] == "svid"
    assert secret["tls_certificate"]["certificate_chain"]["inline_string"] == found.certificate_chain
    assert secret["tls_certificate"]["private_key"]["inline_string"] == found.private_key
    assert bundle["name"] == "bundle"
    assert bundle["validation_context"]["trusted_ca"]["inline_string"] == found.trust_bundle


@pytest.mark.parametrize("name", FILES)
def test_a_crash_before_any_file_leaves_a_whole_identity(
    new_svid: NewSvid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    old, new = new_svid(), new_svid()
    write_svid_files(tmp_path, old)
    write = svid.write_file

    def crash(path: Path, content: bytes, *, mode: int) -> None:
        if path.name == name:
            raise KeyboardInterrupt
        write(path, content, mode=mode)

    monkeypatch.setattr(svid, "write_file", crash)
    with pytest.raises(KeyboardInterrupt):
        write_svid_files(tmp_path, new)
    assert read_svid_files(tmp_path) == (old if name in ("bundle.json", "svid.json") else new)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b'{"resources": [1]}', b"[" * 9999])
def test_garbage_in_one_file_is_made_up_for_by_the_others(
    new_svid: NewSvid, tmp_path: Path, name: str, content: bytes
) -> None:
    found = new_svid()
    write_svid_files(tmp_path, found)
    (tmp_path / name).write_bytes(content)
    assert read_svid_files(tmp_path) == found


def test_garbage_everywhere_is_no_identity_and_is_logged(
    new_svid: NewSvid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_svid_files(tmp_path) is None
    assert "identity_files_unusable" not in capsys.readouterr().err
    for name in FILES:
        (tmp_path / name).write_bytes(b"garbage")
    assert read_svid_files(tmp_path) is None
    assert "identity_files_unusable" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(new_svid: NewSvid, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("")
    with pytest.raises(FailedPrecondition) as caught:
        write_svid_files(tmp_path / "id", new_svid())
    assert caught.value.field == str(tmp_path / "id")
