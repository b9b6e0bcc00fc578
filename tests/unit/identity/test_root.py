import ssl
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mesh.errors import FailedPrecondition, InvalidInput
from mesh.identity import CertificateAuthority, JoinTokens, Svid, root
from mesh.identity.svid import create_key
from mesh.model import SpiffeId

A = SpiffeId("test.local", "default", "a")


def open_authority(folder: Path, clock: Any) -> CertificateAuthority:
    return CertificateAuthority.open(folder, trust_domain="test.local", clock=clock)


def test_key_and_root_are_private_and_come_back(folder: Path, clock: Any) -> None:
    first, again = open_authority(folder, clock), open_authority(folder, clock)
    assert first.fingerprint == again.fingerprint
    assert first.bundle_pem == again.bundle_pem
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"lock": 0o600, "root.key": 0o600, "root.pem": 0o600, "version": 0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_root_is_a_p256_authority_of_its_trust_domain(authority: CertificateAuthority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.bundle_pem.encode())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://test.local"]


def test_threads_that_open_one_folder_at_once_get_one_authority(folder: Path, clock: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: open_authority(folder, clock).fingerprint, range(16)))
    assert len(set(found)) == 1


def test_processes_that_open_one_folder_at_once_get_one_authority_and_one_token_key(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mesh.identity import CertificateAuthority, JoinTokens\n"
        "sys.stdin.readline(); folder = Path(sys.argv[1]); tokens = JoinTokens.open(folder)\n"
        "print(CertificateAuthority.open(folder, trust_domain='test.local').fingerprint, tokens._key.hex())"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        answers = {child.communicate(timeout=30)[0] for child in children}
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert len(answers) == 1 and len(answers.pop().split()) == 2


def test_a_crash_between_key_and_root_repairs_itself(folder: Path, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write = root.write_file

    def crash(path: Path, content: bytes, *, mode: int) -> None:
        if path.name == "root.pem":
            raise KeyboardInterrupt
        write(path, content, mode=mode)

    monkeypatch.setattr(root, "write_file", crash)
    with pytest.raises(KeyboardInterrupt):
        open_authority(folder, clock)
    key = (folder / "root.key").read_bytes()
    monkeypatch.undo()
    assert open_authority(folder, clock).sign(create_key()[1], A, reason="test")
    assert (folder / "root.key").read_bytes() == key


def test_a_root_made_anew_from_its_key_takes_and_is_taken_by_earlier_members(folder: Path, clock: Any) -> None:
    before = open_authority(folder, clock)
    key, csr = create_key()
    signed = before.sign(csr, A, reason="test")
    (folder / "root.pem").unlink()
    after = open_authority(folder, clock)
    assert after.fingerprint != before.fingerprint
    assert Svid.from_pem(signed.chain_pem, key, after.bundle_pem).spiffe_id == A
    renewed = after.sign(csr, A, reason="test")
    assert Svid.from_pem(renewed.chain_pem, key, before.bundle_pem).spiffe_id == A


def garbage(_: bytes) -> bytes:
    return b"\x00\xffgarbage"


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def nothing(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("name", ["root.key", "root.pem", "version"])
@pytest.mark.parametrize("damage", [garbage, half, nothing])
def test_a_damaged_file_is_named_with_a_fix(
    folder: Path, clock: Any, name: str, damage: Callable[[bytes], bytes]
) -> None:
    open_authority(folder, clock)
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FailedPrecondition) as caught:
        open_authority(folder, clock)
    assert caught.value.field == str(path)
    assert "another state directory" in caught.value.fix or "remove it" in caught.value.fix


def test_removing_a_damaged_root_is_a_fix_that_works(folder: Path, clock: Any) -> None:
    open_authority(folder, clock)
    (folder / "root.pem").write_bytes(b"garbage")
    with pytest.raises(FailedPrecondition, match="remove it"):
        open_authority(folder, clock)
    (folder / "root.pem").unlink()
    open_authority(folder, clock)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_root_with_a_changed_bit_is_named_and_never_a_crash(folder: Path, clock: Any) -> None:
    before = open_authority(folder, clock)
    der = ssl.PEM_cert_to_DER_cert(before.bundle_pem)
    refused = 0
    for position in range(0, len(der) * 8, 3):
        changed = bytearray(der)
        changed[position // 8] ^= 1 << position % 8
        (folder / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(bytes(changed)))
        try:
            open_authority(folder, clock)
        except FailedPrecondition as err:
            assert err.field == str(folder / "root.pem")
            refused += 1
    assert refused >= len(der) * 8 // 3 - 8


def test_a_root_without_its_key_is_not_replaced(folder: Path, clock: Any) -> None:
    open_authority(folder, clock)
    (folder / "root.key").unlink()
    with pytest.raises(FailedPrecondition) as caught:
        open_authority(folder, clock)
    assert caught.value.field == str(folder / "root.key")
    assert not (folder / "root.key").exists()


def test_files_of_two_authorities_do_not_mix(folder: Path, tmp_path: Path, clock: Any) -> None:
    open_authority(folder, clock)
    open_authority(tmp_path / "other", clock)
    (folder / "root.pem").write_bytes((tmp_path / "other" / "root.pem").read_bytes())
    with pytest.raises(FailedPrecondition) as caught:
        open_authority(folder, clock)
    assert caught.value.field == str(folder / "root.pem")


@pytest.mark.parametrize("kind", ["rsa", "p384", "encrypted"])
def test_a_key_of_another_kind_is_named(folder: Path, clock: Any, kind: str) -> None:
    open_authority(folder, clock)
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP384R1())
    secret: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if kind == "encrypted":
        key, secret = ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"x")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (folder / "root.key").write_bytes(pem)
    with pytest.raises(FailedPrecondition) as caught:
        open_authority(folder, clock)
    assert caught.value.field == str(folder / "root.key")


def test_a_folder_of_another_version_is_left_alone(folder: Path, clock: Any) -> None:
    open_authority(folder, clock)
    (folder / "version").write_text("3")
    with pytest.raises(FailedPrecondition, match="another version") as caught:
        open_authority(folder, clock)
    assert caught.value.field == str(folder / "version")


def test_a_folder_of_another_trust_domain_is_refused(folder: Path, clock: Any) -> None:
    open_authority(folder, clock)
    with pytest.raises(FailedPrecondition, match=r"test\.local") as caught:
        CertificateAuthority.open(folder, trust_domain="other.local", clock=clock)
    assert caught.value.field == "MESH_TRUST_DOMAIN"


@pytest.mark.parametrize("name", ["", "Test", "a b", "a/b", "spiffe://a"])
def test_what_is_no_trust_domain_makes_no_authority(folder: Path, clock: Any, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        CertificateAuthority.open(folder, trust_domain=name, clock=clock)
    assert caught.value.field == "MESH_TRUST_DOMAIN"
    assert not folder.exists()


@pytest.mark.parametrize("days", [-2, 3651])
def test_a_clock_outside_of_the_roots_life_is_told(folder: Path, clock: Any, days: int) -> None:
    authority = open_authority(folder, clock)
    clock.jump(days=days)
    for attempt in (
        lambda: open_authority(folder, clock),
        lambda: authority.sign(create_key()[1], A, reason="test"),
    ):
        with pytest.raises(FailedPrecondition, match="Set the clock") as caught:
            attempt()
        assert caught.value.reason == "ROOT_NOT_VALID"


def test_a_clock_that_is_set_back_by_hours_does_not_matter(folder: Path, clock: Any) -> None:
    authority = open_authority(folder, clock)
    clock.jump(hours=-20)
    assert authority.sign(create_key()[1], A, reason="test").expire_time == clock() + timedelta(hours=1)
    open_authority(folder, clock)


def test_a_token_key_that_is_damaged_is_made_anew(folder: Path, clock: Any) -> None:
    tokens = JoinTokens.open(folder, clock=clock)
    text, _ = tokens.create("a", timedelta(minutes=1), fingerprint="0" * 64)
    (folder / "token.key").write_bytes(b"half")
    again = JoinTokens.open(folder, clock=clock)
    with pytest.raises(Exception, match="made by another mesh"):
        again.redeem(text, service="a", key_digest=b"k")
