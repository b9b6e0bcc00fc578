import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from mesh.errors import FailedPrecondition, Unauthenticated
from mesh.identity import CertificateAuthority, Svid, write_svid_files
from mesh.identity.svid import create_csr, create_key
from mesh.identity.user_token import LIFETIME, UserTokenSigner, UserTokenVerifier
from mesh.model import SpiffeId

GATEWAY = SpiffeId("test.local", "default", "gateway")
ADA = {"sub": "user:ada", "kind": "user", "name": "ada", "roles": ["caller"]}


class Seconds:
    """The test's clock in seconds."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def __call__(self) -> float:
        return float(self._clock().timestamp())


def svid_of(authority: CertificateAuthority, identity: SpiffeId, **more: Any) -> Svid:
    key, _ = create_key()
    signed = authority.sign(create_csr(key), identity, reason="test", **more)
    return Svid.from_pem(signed.chain_pem, key, authority.bundle_pem)


@pytest.fixture
def sign(authority: CertificateAuthority, clock: Any, tmp_path: Path) -> Callable[..., str]:
    """Signs as a service of the mesh."""

    def run(identity: SpiffeId = GATEWAY, claims: dict[str, Any] = ADA, **more: Any) -> str:
        directory = tmp_path / identity.service
        write_svid_files(directory, svid_of(authority, identity, **more))
        return UserTokenSigner(directory, clock=Seconds(clock)).sign("key", claims)

    return run


@pytest.fixture
def verifier(authority: CertificateAuthority, clock: Any, tmp_path: Path) -> UserTokenVerifier:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(authority.bundle_pem)
    return UserTokenVerifier(bundle, "test.local", clock=Seconds(clock))


def refused(verifier: UserTokenVerifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as found:
        verifier.verify(token)
    assert found.value.reason == "USER_TOKEN_INVALID"
    return found.value.summary


def test_what_a_gateway_signs_is_what_services_read(sign: Any, verifier: UserTokenVerifier) -> None:
    claims = verifier.verify(sign())
    assert {name: claims[name] for name in ADA} == ADA
    assert (claims["iss"], claims["aud"]) == (str(GATEWAY), "spiffe://test.local")


def test_a_token_ends_soon(sign: Any, verifier: UserTokenVerifier, clock: Any) -> None:
    token = sign()
    verifier.verify(token)
    clock.jump(seconds=LIFETIME + 10)
    assert "ended" in refused(verifier, token)


def test_only_gateways_speak_of_users(sign: Any, verifier: UserTokenVerifier) -> None:
    assert "no gateway" in refused(verifier, sign(SpiffeId("test.local", "default", "agent")))
    assert "no gateway" in refused(verifier, sign(SpiffeId("test.local", "default", "gateway-x")))


def test_another_mesh_has_no_say(verifier: UserTokenVerifier, tmp_path: Path, clock: Any) -> None:
    other = CertificateAuthority.open(tmp_path / "other", trust_domain="test.local")
    write_svid_files(tmp_path / "svid", svid_of(other, GATEWAY))
    token = UserTokenSigner(tmp_path / "svid", clock=Seconds(clock)).sign("key", ADA)
    assert "none of the mesh's roots" in refused(verifier, token)


def test_what_was_changed_does_not_hold(sign: Any, verifier: UserTokenVerifier) -> None:
    head, payload, end = sign().split(".")
    other = sign(claims=ADA | {"name": "root"}).split(".")[1]
    for forged in (f"{head}.{other}.{end}", f"{head}.{payload}.", f"{head}.{payload}.{end[:-4]}AAAA", head, "", "..."):
        refused(verifier, forged)


def test_another_key_cannot_sign_beside_the_certificate(sign: Any, verifier: UserTokenVerifier) -> None:
    header = jwt.get_unverified_header(sign())
    key, _ = create_key()
    claims = jwt.decode(sign(), options={"verify_signature": False})
    refused(verifier, jwt.encode(claims, key, algorithm="ES256", headers={"x5c": header["x5c"]}))
    refused(verifier, jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"x5c": header["x5c"]}))


def test_a_certificate_that_has_ended_signs_nothing_more(sign: Any, verifier: UserTokenVerifier, clock: Any) -> None:
    token = sign(lifetime=timedelta(seconds=30))
    clock.jump(seconds=40)
    assert "certificate has ended" in refused(verifier, token)


def test_a_token_is_used_again_for_half_of_its_life_and_never_for_another(
    authority: CertificateAuthority, clock: Any, tmp_path: Path
) -> None:
    write_svid_files(tmp_path, svid_of(authority, GATEWAY))
    signer = UserTokenSigner(tmp_path, clock=Seconds(clock))
    first = signer.sign("ada", ADA)
    assert signer.sign("ada", ADA) is first
    assert signer.sign("bob", ADA | {"name": "bob"}) != first
    clock.jump(seconds=LIFETIME / 2 + 1)
    assert signer.sign("ada", ADA) != first


def test_after_a_renewal_the_new_certificate_is_in_the_token(
    authority: CertificateAuthority, clock: Any, tmp_path: Path
) -> None:
    write_svid_files(tmp_path, svid_of(authority, GATEWAY))
    signer = UserTokenSigner(tmp_path, clock=Seconds(clock))
    before = signer.sign("ada", ADA)
    write_svid_files(tmp_path, svid_of(authority, GATEWAY))
    clock.jump(seconds=LIFETIME / 2 + 1)
    after = signer.sign("ada", ADA)
    assert jwt.get_unverified_header(before)["x5c"] != jwt.get_unverified_header(after)["x5c"]


def test_without_a_certificate_nothing_is_signed(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(FailedPrecondition):
        UserTokenSigner(tmp_path / "none", clock=Seconds(clock)).sign("key", ADA)


def encoded(authority: CertificateAuthority, clock: Any, **changes: Any) -> str:
    """A token of a true gateway, with other claims than those that it would sign."""
    svid = svid_of(authority, GATEWAY)
    now = int(clock().timestamp())
    claims = ADA | {"iss": str(GATEWAY), "aud": "spiffe://test.local", "iat": now, "exp": now + 60} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, svid.private_key, algorithm="ES256", headers={"x5c": x5c_of(svid)})


def x5c_of(svid: Svid) -> list[str]:
    chain = x509.load_pem_x509_certificates(svid.certificate_chain.encode())
    return [base64.b64encode(each.public_bytes(serialization.Encoding.DER)).decode() for each in chain]


def test_the_claims_that_a_gateway_would_sign_hold(
    authority: CertificateAuthority, verifier: UserTokenVerifier, clock: Any
) -> None:
    assert verifier.verify(encoded(authority, clock))["name"] == "ada"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "spiffe://other.local"},
        {"aud": ["other"]},
        {"aud": None},
        {"iss": "spiffe://test.local/ns/default/svc/agent"},
        {"iss": None},
        {"sub": None},
        {"exp": None},
        {"iat": None},
        {"exp": 10**12},
        {"exp": "never"},
        {"exp": 1e400},
    ],
    ids=str,
)
def test_other_claims_do_not_hold(
    authority: CertificateAuthority, verifier: UserTokenVerifier, clock: Any, changes: dict[str, Any]
) -> None:
    refused(verifier, encoded(authority, clock, **changes))


def test_another_mesh_of_the_same_roots_has_no_say(authority: CertificateAuthority, clock: Any, tmp_path: Path) -> None:
    (tmp_path / "bundle.pem").write_text(authority.bundle_pem)
    other = UserTokenVerifier(tmp_path / "bundle.pem", "other.local", clock=Seconds(clock))
    assert "no gateway" in refused(other, encoded(authority, clock))


@pytest.mark.parametrize("x5c", [None, [], "", 7, {}, [7], ["?"], ["AAAA"], [""]], ids=str)
def test_a_certificate_that_cannot_be_read_is_refused(
    sign: Any, verifier: UserTokenVerifier, authority: CertificateAuthority, x5c: Any
) -> None:
    claims = jwt.decode(sign(), options={"verify_signature": False})
    key, _ = create_key()
    refused(verifier, jwt.encode(claims, key, algorithm="ES256", headers={"x5c": x5c}))


def test_a_token_without_a_signature_does_not_hold(sign: Any, verifier: UserTokenVerifier) -> None:
    token = sign()
    claims = jwt.decode(token, options={"verify_signature": False})
    x5c = jwt.get_unverified_header(token)["x5c"]
    refused(verifier, jwt.encode(claims, None, algorithm="none", headers={"x5c": x5c}))


def test_what_is_too_long_is_not_looked_at(verifier: UserTokenVerifier) -> None:
    assert "too long" in refused(verifier, "a" * 20_000)


def test_without_roots_nothing_holds(sign: Any, clock: Any, tmp_path: Path) -> None:
    alone = UserTokenVerifier(tmp_path / "none.pem", "test.local", clock=Seconds(clock))
    assert "roots" in refused(alone, sign())


@pytest.mark.parametrize("content", [b"", b"nothing of ours"])
def test_damaged_roots_are_told(sign: Any, clock: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "damaged.pem").write_bytes(content)
    with pytest.raises(FailedPrecondition) as found:
        UserTokenVerifier(tmp_path / "damaged.pem", "test.local", clock=Seconds(clock)).verify(sign())
    assert found.value.field.endswith("damaged.pem")


def test_the_mode_of_the_roots_is_left_as_it_is(sign: Any, verifier: UserTokenVerifier, tmp_path: Path) -> None:
    (tmp_path / "bundle.pem").chmod(0o644)
    verifier.verify(sign())
    assert (tmp_path / "bundle.pem").stat().st_mode & 0o777 == 0o644


def test_claims_are_json(sign: Any) -> None:
    payload = sign().split(".")[1]
    assert json.loads(jwt.utils.base64url_decode(payload))["roles"] == ["caller"]
