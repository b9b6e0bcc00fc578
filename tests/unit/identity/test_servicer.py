from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from agentmesh.identity.v1 import identity_service_pb2 as pb
from mesh.errors import InvalidInput, MeshError, PermissionDenied, Unauthenticated
from mesh.identity import CertificateAuthority, IdentityServicer, JoinTokens, peer_spiffe_id
from mesh.identity.svid import create_key
from mesh.model import SpiffeId

A = SpiffeId("test.local", "default", "a")


class Context:
    """A call over TLS, with the SPIFFE ids that gRPC found in the peer's certificate."""

    def __init__(self, *ids: object) -> None:
        self._ids = [str(identifier).encode() for identifier in ids]

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"peer_spiffe_id": self._ids} if self._ids else {}


@pytest.fixture
def enrolment(authority: CertificateAuthority, tokens: JoinTokens) -> IdentityServicer:
    return IdentityServicer(authority, tokens, "default", enrolment=True)


@pytest.fixture
def control(authority: CertificateAuthority, tokens: JoinTokens) -> IdentityServicer:
    return IdentityServicer(authority, tokens, "default", enrolment=False)


def ask(service: str = "a", *, csr: bytes | None = None, token: str = "") -> pb.SignCertificateRequest:
    return pb.SignCertificateRequest(csr=csr or create_key()[1], service=service, join_token=token)


async def test_the_peer_is_who_its_certificate_names() -> None:
    assert peer_spiffe_id(Context(A)) == A


@pytest.mark.parametrize("ids", [(), ("garbage",), (A, A), ("spiffe://test.local/ns/default", "/svc/a")])
async def test_a_peer_without_exactly_one_identity_is_nobody(ids: tuple[object, ...]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        peer_spiffe_id(Context(*ids))
    assert caught.value.reason == "NO_PEER_IDENTITY"


async def test_a_certificate_renews_itself(control: IdentityServicer) -> None:
    answer = await control.SignCertificate(ask(), Context(A))
    assert answer.spiffe_id == str(A)


@pytest.mark.parametrize(
    "peer",
    [
        "spiffe://test.local/ns/default/svc/b",
        "spiffe://test.local/ns/other/svc/a",
        "spiffe://other.local/ns/default/svc/a",
        "spiffe://test.local/ns/default/svc/control-plane",
    ],
)
async def test_a_certificate_gets_none_for_another_identity(control: IdentityServicer, peer: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        await control.SignCertificate(ask("a"), Context(peer))
    assert (caught.value.reason, caught.value.field) == ("WRONG_SERVICE", "service")


async def test_a_token_is_of_no_use_on_the_control_port(control: IdentityServicer, tokens: JoinTokens) -> None:
    token, _ = tokens.create("b", timedelta(minutes=1), fingerprint="0" * 64)
    with pytest.raises(PermissionDenied):
        await control.SignCertificate(ask("b", token=token), Context(A))
    with pytest.raises(Unauthenticated):
        await control.SignCertificate(ask("b", token=token), Context())


async def test_a_certificate_is_of_no_use_on_the_enrolment_port(enrolment: IdentityServicer) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await enrolment.SignCertificate(ask(), Context(A))
    assert caught.value.reason == "TOKEN_MISSING"


async def test_the_control_planes_certificate_is_for_nobody(
    enrolment: IdentityServicer, control: IdentityServicer
) -> None:
    for servicer in (enrolment, control):
        with pytest.raises(InvalidInput) as caught:
            await servicer.SignCertificate(
                ask("control-plane"), Context("spiffe://test.local/ns/default/svc/control-plane")
            )
        assert caught.value.reason == "RESERVED_NAME"


async def test_a_request_that_is_refused_costs_no_token(
    enrolment: IdentityServicer, tokens: JoinTokens, new_csr: Callable[..., bytes]
) -> None:
    token, _ = tokens.create("a", timedelta(minutes=1), fingerprint="0" * 64)
    for csr in (b"garbage", new_csr(x509.DNSName("b.mesh"))):
        with pytest.raises(InvalidInput) as caught:
            await enrolment.SignCertificate(ask(csr=csr, token=token), Context())
        assert caught.value.field == "csr"
    await enrolment.SignCertificate(ask(token=token), Context())


async def test_refusals_are_logged_with_their_reason_and_without_the_token(
    enrolment: IdentityServicer, tokens: JoinTokens, clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    token, _ = tokens.create("a", timedelta(minutes=1), fingerprint="0" * 64)
    clock.jump(minutes=2)
    with pytest.raises(MeshError):
        await enrolment.SignCertificate(ask(token=token), Context())
    logged = capsys.readouterr().err
    assert "certificate_refused" in logged and "TOKEN_EXPIRED" in logged and '"for_service":"a"' in logged
    assert not any(part in logged for part in token.split(".")[1:])
