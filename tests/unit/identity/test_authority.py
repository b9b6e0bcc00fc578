from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from mesh.errors import InvalidInput
from mesh.identity import CertificateAuthority
from mesh.identity import authority as authority_module
from mesh.identity.svid import create_key
from mesh.model import SpiffeId

A = SpiffeId("test.local", "default", "a")
CSR = create_key()[1]


def sign(authority: CertificateAuthority, csr: bytes = CSR, **more: Any) -> x509.Certificate:
    signed = authority.sign(csr, A, reason="test", **more)
    return x509.load_pem_x509_certificate(signed.chain_pem.encode())


def test_a_certificate_lasts_an_hour_and_is_to_be_renewed_at_half_of_it(
    authority: CertificateAuthority, clock: Any
) -> None:
    signed = authority.sign(CSR, A, reason="test")
    assert (signed.issue_time, signed.expire_time) == (clock(), clock() + timedelta(hours=1))
    assert signed.renew_time == clock() + timedelta(minutes=30)


def test_a_certificate_says_one_identity_and_can_sign_nothing(authority: CertificateAuthority) -> None:
    extensions = sign(authority).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(str(A))]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and not usage.key_cert_sign and not usage.crl_sign
    purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert purposes == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_a_certificate_is_signed_by_the_root(authority: CertificateAuthority) -> None:
    root = x509.load_pem_x509_certificate(authority.bundle_pem.encode())
    sign(authority).verify_directly_issued_by(root)


def test_nothing_but_the_key_is_taken_from_a_request(
    authority: CertificateAuthority, new_csr: Callable[..., bytes]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = sign(authority, new_csr(x509.UniformResourceIdentifier(str(A)), key=key))
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=a"


def test_a_request_for_another_name_is_refused(authority: CertificateAuthority, new_csr: Callable[..., bytes]) -> None:
    with pytest.raises(InvalidInput) as caught:
        sign(authority, new_csr(x509.DNSName("b.mesh")))
    assert caught.value.field == "csr"
    sign(authority, new_csr(x509.DNSName("b.mesh")), dns_names=("b.mesh",))


def test_another_trust_domain_is_not_signed_for(authority: CertificateAuthority) -> None:
    with pytest.raises(InvalidInput):
        authority.sign(CSR, SpiffeId("other.local", "default", "a"), reason="test")


def test_no_certificate_outlives_the_root(authority: CertificateAuthority, clock: Any) -> None:
    clock.jump(days=3649.99)
    root = x509.load_pem_x509_certificate(authority.bundle_pem.encode())
    assert sign(authority).not_valid_after_utc == root.not_valid_after_utc


def test_what_has_ended_is_forgotten(authority: CertificateAuthority, clock: Any) -> None:
    authority.sign(CSR, A, reason="first")
    clock.jump(minutes=40)
    authority.sign(CSR, A, reason="second")
    assert [signed.reason for signed in authority.issued()] == ["first", "second"]
    clock.jump(minutes=20)
    assert [signed.reason for signed in authority.issued()] == ["second"]
    clock.jump(hours=1)
    assert authority.issued() == ()


def test_what_was_issued_is_bounded(authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_module, "MOST_REMEMBERED", 3)
    for number in range(5):
        authority.sign(CSR, A, reason=str(number))
    assert [signed.reason for signed in authority.issued()] == ["2", "3", "4"]


def test_threads_lose_no_record(authority: CertificateAuthority) -> None:
    with ThreadPoolExecutor(8) as pool:
        serials = set(pool.map(lambda _: authority.sign(CSR, A, reason="test").serial, range(64)))
    assert len(serials) == 64
    assert {signed.serial for signed in authority.issued()} == serials
