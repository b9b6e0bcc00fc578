from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.errors import InvalidInput
from mesh.identity.csr import LARGEST_CSR, check_names, read_csr
from mesh.identity.svid import create_key
from mesh.model import SpiffeId

A = SpiffeId("test.local", "default", "a")
NewCsr = Callable[..., bytes]
GOOD = create_key()[1]


def refusal(csr: bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        check_names(read_csr(csr), A)
    assert caught.value.field == "csr"
    assert caught.value.fix
    return caught.value


def test_a_p256_request_is_read_and_its_digest_is_that_of_its_key(new_csr: NewCsr) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    one, two, other = read_csr(new_csr(key=key)), read_csr(new_csr(key=key)), read_csr(new_csr())
    assert one.key == key.public_key()
    assert one.key_digest == two.key_digest != other.key_digest


@pytest.mark.parametrize("bits", [1024, 2048])
def test_an_rsa_key_is_refused(new_csr: NewCsr, bits: int) -> None:
    key = rsa.generate_private_key(65537, bits)
    assert "P-256" in refusal(new_csr(key=key)).summary


@pytest.mark.parametrize("curve", [ec.SECP192R1, ec.SECP224R1, ec.SECP384R1, ec.SECP256K1])
def test_another_curve_is_refused(new_csr: NewCsr, curve: type[ec.EllipticCurve]) -> None:
    assert "P-256" in refusal(new_csr(key=ec.generate_private_key(curve()))).summary


def test_an_unknown_curve_is_refused(new_csr: NewCsr) -> None:
    p256, unknown = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f")
    csr = new_csr()
    assert p256 in csr
    refusal(csr.replace(p256, unknown))


def test_an_ed25519_key_is_refused() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    assert "P-256" in refusal(csr.public_bytes(serialization.Encoding.DER)).summary


def test_a_request_that_its_key_has_not_signed_is_refused(new_csr: NewCsr) -> None:
    mine, yours = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    csr = new_csr(key=mine)

    def key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)

    assert "not signed" in refusal(csr.replace(key_bytes(mine), key_bytes(yours))).summary


def test_a_huge_request_is_refused_unread() -> None:
    assert str(LARGEST_CSR) in refusal(b"0" * (LARGEST_CSR + 1)).summary


@pytest.mark.parametrize("csr", [b"", b"garbage", GOOD[:-1], GOOD + b"\0"])
def test_what_is_no_request_is_refused(csr: bytes) -> None:
    refusal(csr)


def test_the_own_name_may_be_asked_for(new_csr: NewCsr) -> None:
    check_names(read_csr(new_csr(x509.UniformResourceIdentifier(str(A)))), A)


@pytest.mark.parametrize(
    "names",
    [
        [x509.UniformResourceIdentifier("spiffe://test.local/ns/default/svc/b")],
        [x509.UniformResourceIdentifier("spiffe://other.local/ns/default/svc/a")],
        [x509.UniformResourceIdentifier(str(A)), x509.UniformResourceIdentifier(f"{A}b")],
        [x509.UniformResourceIdentifier(str(A)), x509.DNSName("control-plane.mesh")],
        [x509.DNSName(str(A))],
        [x509.RFC822Name("a@test.local")],
        [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))],
        [x509.DirectoryName(x509.Name([]))],
        [x509.UniformResourceIdentifier("x" * 5000)],
    ],
)
def test_a_request_for_other_names_is_refused(new_csr: NewCsr, names: list[x509.GeneralName]) -> None:
    error = refusal(new_csr(*names))
    assert error.reason == "CSR_NAME_REFUSED"
    assert len(str(error)) < 400


def test_extensions_that_cannot_be_read_are_refused() -> None:
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03garbage")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(broken, critical=False)
    csr = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    refusal(csr.public_bytes(serialization.Encoding.DER))


def test_a_request_with_a_changed_bit_is_refused_and_never_a_crash() -> None:
    """All bits, one after the other: a wrong version, for one, is found by few random changes."""
    expected = read_csr(GOOD)
    end_of_signed = 3 + 2 + GOOD[4]
    for position in range(len(GOOD) * 8):
        changed = bytearray(GOOD)
        changed[position // 8] ^= 1 << position % 8
        try:
            found = read_csr(bytes(changed))
        except InvalidInput as err:
            assert err.field == "csr"
        else:
            # How many bits of the signature's last byte do not count is outside of what is signed, and says nothing.
            assert (found.key_digest, found.names) == (expected.key_digest, expected.names)
            assert changed[:end_of_signed] == GOOD[:end_of_signed]


@pytest.mark.parametrize("version", [1, 2, 127])
def test_a_request_of_another_version_is_refused(version: int) -> None:
    head = bytes.fromhex("020100")
    assert GOOD.index(head) < 12
    assert "cannot be read" in refusal(GOOD.replace(head, head[:2] + bytes([version]), 1)).summary


@given(st.binary(max_size=300))
@example(b"")
def test_bytes_of_any_kind_are_refused_and_never_a_crash(csr: bytes) -> None:
    refusal(csr)
