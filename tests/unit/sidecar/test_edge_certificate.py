import asyncio
import ipaddress
import json
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.errors import FailedPrecondition, InvalidInput, MeshError
from mesh.sidecar import edge_certificate
from mesh.sidecar.edge_certificate import EdgeCertificate, open_edge_certificate

HOSTS = ("localhost", "*.localhost", "127.0.0.1", "::1")


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_certificate, "_LOOK_SECONDS", 0.005)


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def own(tmp_path: Path) -> EdgeCertificate:
    return EdgeCertificate(tmp_path / "edge", hosts=HOSTS)


class Days:
    """The module's calendar, which can be set forward."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self, zone: Any) -> datetime:
        return datetime.now(zone) + timedelta(days=self.passed)


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> Iterator[Days]:
    calendar = Days()
    monkeypatch.setattr(edge_certificate, "datetime", calendar)
    yield calendar


def pem_pair(name: str) -> tuple[bytes, bytes]:
    """A certificate that an operator may have, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return leaf.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture
def given(tmp_path: Path) -> EdgeCertificate:
    """Files of an operator's, for the name "first"."""
    source = EdgeCertificate(tmp_path / "edge", tmp_path / "cert.pem", tmp_path / "key.pem")
    put(source, *pem_pair("first"))
    return source


def put(source: EdgeCertificate, chain: bytes, key: bytes) -> None:
    assert source.certificate is not None
    assert source.key is not None
    source.certificate.write_bytes(chain)
    source.key.write_bytes(key)


def shown(secrets_dir: Path) -> tuple[x509.Certificate, str]:
    """The certificate that Envoy is given, and its key."""
    (resource,) = json.loads((secrets_dir / "edge.json").read_bytes())["resources"]
    assert (resource["name"], resource["@type"].rpartition(".")[2]) == ("edge", "Secret")
    secret = resource["tls_certificate"]
    leaf = x509.load_pem_x509_certificate(secret["certificate_chain"]["inline_string"].encode())
    return leaf, secret["private_key"]["inline_string"]


def name_shown(secrets_dir: Path) -> Any:
    return shown(secrets_dir)[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def is_pair(leaf: x509.Certificate, key: str) -> bool:
    return serialization.load_pem_private_key(key.encode(), None).public_key() == leaf.public_key()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


async def open_once(source: EdgeCertificate, secrets_dir: Path) -> None:
    async with open_edge_certificate(source, secrets_dir):
        pass


class TestGiven:
    async def test_files_of_an_operator_are_shown_and_their_folder_is_left_alone(
        self, given: EdgeCertificate, secrets_dir: Path
    ) -> None:
        await open_once(given, secrets_dir)
        assert name_shown(secrets_dir) == "first"
        assert is_pair(*shown(secrets_dir))
        assert not given.own_dir.exists()

    async def test_what_envoy_reads_is_for_its_owner_only(self, given: EdgeCertificate, secrets_dir: Path) -> None:
        await open_once(given, secrets_dir)
        assert stat.S_IMODE((secrets_dir / "edge.json").stat().st_mode) == 0o600

    async def test_new_files_are_shown_without_a_restart(
        self, given: EdgeCertificate, secrets_dir: Path, logs: list[Any]
    ) -> None:
        async with open_edge_certificate(given, secrets_dir):
            put(given, *pem_pair("second"))
            await until(lambda: name_shown(secrets_dir) == "second")
            await until(lambda: "edge_certificate_changed" in [line["event"] for line in logs])

    async def test_the_same_files_are_not_written_again(
        self, given: EdgeCertificate, secrets_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks = 0
        read = edge_certificate._read

        def count(path: Path) -> bytes:
            nonlocal looks
            looks += 1
            return read(path)

        monkeypatch.setattr(edge_certificate, "_read", count)
        async with open_edge_certificate(given, secrets_dir):
            before = (secrets_dir / "edge.json").stat().st_ino
            await until(lambda: looks > 8)
            assert (secrets_dir / "edge.json").stat().st_ino == before

    @pytest.mark.parametrize("damage", ["another key", "half a file", "nothing", "no file"])
    async def test_the_old_one_stays_while_the_new_files_do_not_hold(
        self, given: EdgeCertificate, secrets_dir: Path, logs: list[Any], damage: str
    ) -> None:
        chain, key = pem_pair("second")
        assert given.certificate is not None
        assert given.key is not None

        def told() -> int:
            return [line["event"] for line in logs].count("edge_certificate_unusable")

        async with open_edge_certificate(given, secrets_dir):
            match damage:
                case "another key":
                    given.certificate.write_bytes(chain)
                case "half a file":
                    given.certificate.write_bytes(chain[:200])
                case "nothing":
                    given.key.write_bytes(b"")
                case _:
                    given.key.unlink()
            await until(lambda: told() > 0)
            assert name_shown(secrets_dir) == "first"
            put(given, chain, key)
            await until(lambda: name_shown(secrets_dir) == "second")
        assert is_pair(*shown(secrets_dir))
        # Writing one file after the other may show one more state between; none is told again and again.
        assert told() <= 3

    async def test_a_key_of_another_certificate_is_refused_at_the_start(
        self, given: EdgeCertificate, secrets_dir: Path
    ) -> None:
        put(given, pem_pair("a")[0], pem_pair("b")[1])
        with pytest.raises(InvalidInput, match="not that of the certificate"):
            await open_once(given, secrets_dir)
        assert not (secrets_dir / "edge.json").exists()

    async def test_a_key_with_a_password_is_refused(self, given: EdgeCertificate, secrets_dir: Path) -> None:
        chain, key = pem_pair("a")
        locked = serialization.load_pem_private_key(key, None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        put(given, chain, locked)
        with pytest.raises(InvalidInput) as found:
            await open_once(given, secrets_dir)
        assert "without a password" in found.value.fix

    @pytest.mark.parametrize("which", [0, 1])
    async def test_what_is_no_text_between_the_blocks_is_refused(
        self, given: EdgeCertificate, secrets_dir: Path, which: int
    ) -> None:
        pair = list(pem_pair("a"))
        pair[which] = b"Z\xfcrich\n" + pair[which]
        put(given, *pair)
        with pytest.raises(InvalidInput):
            await open_once(given, secrets_dir)

    async def test_a_file_that_is_not_there_is_named(self, given: EdgeCertificate, secrets_dir: Path) -> None:
        assert given.key is not None
        given.key.unlink()
        with pytest.raises(FailedPrecondition) as found:
            await open_once(given, secrets_dir)
        assert found.value.field == str(given.key)

    async def test_no_error_shows_the_key(self, given: EdgeCertificate, secrets_dir: Path, logs: list[Any]) -> None:
        chain, key = pem_pair("a")
        put(given, key, chain)
        with pytest.raises(MeshError) as found:
            await open_once(given, secrets_dir)
        assert key.decode().splitlines()[1] not in f"{found.value!r} {found.value.__dict__} {logs}"


class TestOwn:
    async def test_it_is_for_these_hosts_and_comes_from_the_own_authority(
        self, own: EdgeCertificate, secrets_dir: Path
    ) -> None:
        await open_once(own, secrets_dir)
        leaf, key = shown(secrets_dir)
        assert is_pair(leaf, key)
        authority = x509.load_pem_x509_certificate(own.authority.read_bytes())
        leaf.verify_directly_issued_by(authority)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["localhost", "*.localhost"]
        assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(it) for it in ("127.0.0.1", "::1")]
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (limits.ca, limits.path_length) == (True, 0)

    async def test_its_files_are_for_their_owner_only(
        self, own: EdgeCertificate, secrets_dir: Path, logs: list[Any]
    ) -> None:
        await open_once(own, secrets_dir)
        await open_once(own, secrets_dir)
        assert stat.S_IMODE(own.own_dir.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in own.own_dir.iterdir()} == {0o600}
        assert "secret_file_tightened" not in [line["event"] for line in logs]

    async def test_it_stays_over_restarts(self, own: EdgeCertificate, secrets_dir: Path) -> None:
        await open_once(own, secrets_dir)
        before = shown(secrets_dir)
        await open_once(own, secrets_dir)
        assert shown(secrets_dir) == before

    async def test_it_is_renewed_at_half_of_its_life_while_it_runs(
        self, own: EdgeCertificate, secrets_dir: Path, days: Days
    ) -> None:
        async with open_edge_certificate(own, secrets_dir):
            first, authority = shown(secrets_dir)[0], own.authority.read_bytes()
            days.passed = 44
            await open_once(own, secrets_dir)
            assert shown(secrets_dir)[0] == first
            days.passed = 46
            await until(lambda: shown(secrets_dir)[0] != first)
        assert is_pair(*shown(secrets_dir))
        assert own.authority.read_bytes() == authority

    async def test_an_authority_signs_nothing_that_outlives_it(
        self, own: EdgeCertificate, secrets_dir: Path, days: Days
    ) -> None:
        await open_once(own, secrets_dir)
        before = own.authority.read_bytes()
        days.passed = 3650 - 60
        await open_once(own, secrets_dir)
        assert own.authority.read_bytes() != before
        shown(secrets_dir)[0].verify_directly_issued_by(x509.load_pem_x509_certificate(own.authority.read_bytes()))

    async def test_other_hosts_get_another_one_from_the_same_authority(
        self, own: EdgeCertificate, secrets_dir: Path
    ) -> None:
        await open_once(own, secrets_dir)
        authority = own.authority.read_bytes()
        await open_once(EdgeCertificate(own.own_dir, hosts=(*HOSTS, "10.0.0.7")), secrets_dir)
        names = shown(secrets_dir)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert ipaddress.ip_address("10.0.0.7") in names.get_values_for_type(x509.IPAddress)
        assert own.authority.read_bytes() == authority

    @pytest.mark.parametrize("name", ["edge.pem", "edge-key.pem"])
    @pytest.mark.parametrize("content", [b"", b"nothing of ours", None])
    async def test_a_damaged_one_is_made_anew(
        self, own: EdgeCertificate, secrets_dir: Path, name: str, content: bytes | None
    ) -> None:
        await open_once(own, secrets_dir)
        if content is None:
            (own.own_dir / name).unlink()
        else:
            (own.own_dir / name).write_bytes(content)
        await open_once(own, secrets_dir)
        assert is_pair(*shown(secrets_dir))

    @pytest.mark.parametrize("name", ["edge-key.pem", "ca-key.pem"])
    async def test_a_writer_that_was_killed_after_the_key_leaves_no_pair_that_does_not_fit(
        self, own: EdgeCertificate, secrets_dir: Path, name: str
    ) -> None:
        await open_once(own, secrets_dir)
        (own.own_dir / name).write_bytes(pem_pair("new")[1])
        await open_once(own, secrets_dir)
        leaf, key = shown(secrets_dir)
        assert is_pair(leaf, key)
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(own.authority.read_bytes()))
        await open_once(own, secrets_dir)
        assert shown(secrets_dir) == (leaf, key)

    async def test_a_damaged_authority_is_told_and_not_replaced(self, own: EdgeCertificate, secrets_dir: Path) -> None:
        await open_once(own, secrets_dir)
        (own.own_dir / "ca-key.pem").write_bytes(b"nothing of ours")
        before = own.authority.read_bytes()
        with pytest.raises(FailedPrecondition) as found:
            await open_once(own, secrets_dir)
        assert "Remove the folder" in found.value.fix
        assert own.authority.read_bytes() == before
