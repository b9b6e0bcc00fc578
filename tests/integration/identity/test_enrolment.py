import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agentmesh.identity.v1 import identity_service_pb2 as pb
from mesh.errors import FailedPrecondition, InvalidInput, MeshError, PermissionDenied, Unauthenticated, Unavailable
from mesh.identity import CertificateAuthority, JoinTokens, Svid, open_identity
from mesh.identity.svid import create_key
from mesh.model import SpiffeId
from mesh.rpc import error_from_rpc

A = SpiffeId("test.local", "default", "a")


async def sign(stub: Any, token: str = "", *, csr: bytes = b"", service: str = "a") -> pb.SignCertificateResponse:
    request = pb.SignCertificateRequest(csr=csr or create_key()[1], join_token=token, service=service)
    try:
        return await stub.SignCertificate(request, timeout=10)
    except grpc.aio.AioRpcError as err:
        raise error_from_rpc(err) from err


async def test_a_token_gets_an_identity_and_its_files(control_plane: Any, tokens_of: Any, tmp_path: Path) -> None:
    tokens = tokens_of(control_plane)
    async with open_identity(control_plane.settings(tmp_path / "id"), tokens) as identity:
        assert identity.current.spiffe_id == A
        assert len(tokens.given) == 1
    names = {"lock", "svid.json", "bundle.json", "svid.pem", "key.pem", "bundle.pem"}
    assert {path.name for path in (tmp_path / "id").iterdir()} == names
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "id").iterdir()} == {0o600}
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o700


async def test_the_private_key_stays_where_it_was_made(control_plane: Any, tokens_of: Any, tmp_path: Path) -> None:
    async with open_identity(control_plane.settings(tmp_path / "id"), tokens_of(control_plane)) as identity:
        await identity.renew_now()
        keys = [serialization.load_pem_private_key(identity.current.private_key.encode(), None)]
    sent = [
        request.SerializeToString()
        for servicer in (control_plane.enrolment_servicer, control_plane.control_servicer)
        for request in servicer.requests
    ]
    assert len(sent) == 2
    for key in keys:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        secret = key.private_numbers().private_value.to_bytes(32, "big")
        assert not any(secret in request for request in sent)


async def test_a_second_start_needs_no_token(
    control_plane: Any, tokens_of: Any, refuse_token: Any, tmp_path: Path
) -> None:
    settings = control_plane.settings(tmp_path / "id")
    async with open_identity(settings, tokens_of(control_plane)) as first:
        pass
    async with open_identity(settings, refuse_token) as second:
        assert second.current == first.current


async def test_files_of_another_service_are_not_taken_over(control_plane: Any, tokens_of: Any, tmp_path: Path) -> None:
    async with open_identity(control_plane.settings(tmp_path / "id", "b"), tokens_of(control_plane, "b")):
        pass
    async with open_identity(control_plane.settings(tmp_path / "id"), tokens_of(control_plane)) as identity:
        assert identity.current.spiffe_id == A


async def test_garbage_in_the_files_is_repaired_with_a_token(
    control_plane: Any, tokens_of: Any, tmp_path: Path
) -> None:
    settings = control_plane.settings(tmp_path / "id")
    async with open_identity(settings, tokens_of(control_plane)):
        pass
    for path in (tmp_path / "id").iterdir():
        path.write_bytes(b"\xffgarbage")
    async with open_identity(settings, tokens_of(control_plane)) as identity:
        assert identity.current.spiffe_id == A


async def test_a_folder_that_cannot_be_used_costs_no_token(
    control_plane: Any, refuse_token: Any, tmp_path: Path
) -> None:
    (tmp_path / "id").write_text("")
    with pytest.raises(FailedPrecondition) as caught:
        async with open_identity(control_plane.settings(tmp_path / "id"), refuse_token):
            raise AssertionError
    assert caught.value.field == str(tmp_path / "id")


async def test_each_bad_token_is_refused_with_its_own_reason(
    control_plane: Any, open_stub: Any, tmp_path: Path
) -> None:
    used = control_plane.token()
    foreign = JoinTokens.open(tmp_path / "other").create(
        "a", timedelta(minutes=1), fingerprint=control_plane.authority.fingerprint
    )[0]
    good = control_plane.token()
    changed = good[:-1] + ("A" if good[-1] != "A" else "E")
    cases = {
        "TOKEN_MISSING": "",
        "TOKEN_MALFORMED": "garbage",
        "TOKEN_FOREIGN": foreign,
        "TOKEN_EXPIRED": control_plane.token(lifetime=timedelta(minutes=-1)),
        "TOKEN_USED": used,
        "TOKEN_WRONG_SERVICE": control_plane.token("b"),
    }
    async with open_stub(control_plane.enrolment, root=control_plane.authority.bundle_pem) as stub:
        await sign(stub, used)
        for reason, token in [*cases.items(), ("TOKEN_FOREIGN", changed)]:
            with pytest.raises(MeshError) as caught:
                await sign(stub, token)
            assert caught.value.reason == reason
            kind = PermissionDenied if reason == "TOKEN_WRONG_SERVICE" else Unauthenticated
            assert isinstance(caught.value, kind)
            assert caught.value.field in ("join_token", "service") and caught.value.fix
        # Refusals have not used up what was good.
        assert (await sign(stub, good)).spiffe_id == str(A)


async def test_a_token_may_come_again_with_the_same_key(control_plane: Any, open_stub: Any) -> None:
    token, (key, csr) = control_plane.token(), create_key()
    async with open_stub(control_plane.enrolment, root=control_plane.authority.bundle_pem) as stub:
        for _ in range(2):
            answer = await sign(stub, token, csr=csr)
            assert Svid.from_pem(answer.certificate_chain, key, answer.trust_bundle).spiffe_id == A


async def test_a_lost_answer_does_not_cost_the_token(control_plane: Any, always: Any, tmp_path: Path) -> None:
    settings, token = control_plane.settings(tmp_path / "id"), always(control_plane.token())
    control_plane.enrolment_servicer.answers_to_lose = 1
    with pytest.raises(Unavailable):
        async with open_identity(settings, token):
            raise AssertionError
    assert (tmp_path / "id" / "enrolment.key").stat().st_mode & 0o777 == 0o600
    async with open_identity(settings, token) as identity:
        assert identity.current.spiffe_id == A
    assert not (tmp_path / "id" / "enrolment.key").exists()


async def test_a_restart_of_the_control_plane_forgets_no_use(
    open_control_plane: Any, always: Any, refuse_token: Any, tmp_path: Path
) -> None:
    async with open_control_plane() as before:
        token = before.token()
        async with open_identity(before.settings(tmp_path / "one"), always(token)):
            pass
    async with open_control_plane() as after:
        with pytest.raises(Unauthenticated) as caught:
            async with open_identity(after.settings(tmp_path / "two"), always(token)):
                raise AssertionError
        assert caught.value.reason == "TOKEN_USED"
        async with open_identity(after.settings(tmp_path / "one"), refuse_token) as identity:
            await identity.renew_now()


def weak(name: str) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    key: Any = rsa.generate_private_key(65537, 1024) if name == "rsa" else ec.generate_private_key(ec.SECP256R1())
    if name == "p192":
        key = ec.generate_private_key(ec.SECP192R1())
    if name == "name":
        other = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{A}b")])
        builder = builder.add_extension(other, critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return csr[:-1] + bytes([csr[-1] ^ 1]) if name == "signature" else csr


@pytest.mark.parametrize("name", ["rsa", "p192", "name", "signature", "garbage", "huge"])
async def test_a_bad_request_is_refused_by_name_and_costs_no_token(
    control_plane: Any, open_stub: Any, name: str
) -> None:
    csr = {"garbage": b"garbage", "huge": b"0" * (1 << 20)}.get(name) or weak(name)
    token = control_plane.token()
    async with open_stub(control_plane.enrolment, root=control_plane.authority.bundle_pem) as stub:
        with pytest.raises(InvalidInput) as caught:
            await sign(stub, token, csr=csr)
        assert caught.value.field == "csr" and caught.value.fix
        await sign(stub, token)


async def test_a_certificate_gets_none_for_another_service(
    control_plane: Any, tokens_of: Any, open_stub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        open_identity(control_plane.settings(tmp_path / "id"), tokens_of(control_plane)) as identity,
        open_stub(control_plane.control, identity=identity) as stub,
    ):
        with pytest.raises(PermissionDenied) as caught:
            await sign(stub, service="b")
        assert caught.value.reason == "WRONG_SERVICE"
        with pytest.raises(PermissionDenied):
            await sign(stub, control_plane.token("b"), service="b")
        with pytest.raises(InvalidInput):
            await sign(stub, service="control-plane")
        assert (await sign(stub)).spiffe_id == str(A)
    assert "WRONG_SERVICE" in capsys.readouterr().err


async def test_the_control_port_is_closed_without_a_certificate_of_the_mesh(
    control_plane: Any, open_stub: Any, tmp_path: Path
) -> None:
    root = control_plane.authority.bundle_pem
    async with open_stub(control_plane.control, root=root) as stub:
        with pytest.raises(Unavailable):
            await sign(stub)
    foreign = CertificateAuthority.open(tmp_path / "foreign", trust_domain="test.local")
    key, csr = create_key()
    chain = foreign.sign(csr, A, reason="test").chain_pem
    credentials = grpc.ssl_channel_credentials(root.encode(), key.encode(), chain.encode())
    options = [("grpc.default_authority", "control-plane.mesh")]
    async with grpc.aio.secure_channel(str(control_plane.control), credentials, options=options) as channel:
        call = channel.unary_unary("/agentmesh.identity.v1.IdentityService/GetTrustBundle")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert control_plane.control_servicer.connections == []


async def test_nothing_secret_is_logged(
    control_plane: Any, tokens_of: Any, always: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tokens_of(control_plane)
    async with open_identity(control_plane.settings(tmp_path / "id"), tokens) as identity:
        keys = [identity.current.private_key]
        await identity.renew_now()
        keys.append(identity.current.private_key)
    bad = always(tokens.given[0])
    messages = []
    for service in ("a", "b"):
        with pytest.raises(MeshError) as caught:
            async with open_identity(control_plane.settings(tmp_path / service, service), bad):
                raise AssertionError
        messages.append(f"{caught.value} {caught.value!r} {caught.value.__cause__}")
    shown = "".join((*capsys.readouterr(), *messages, repr(identity.current), repr(control_plane)))
    assert "certificate_signed" in shown and "certificate_refused" in shown
    secrets = [line for key in keys for line in key.splitlines()[1:-1]]
    secrets += [part for token in tokens.given for part in token.split(".")[1:]]
    secrets += (tmp_path / "ca" / "root.key").read_text().splitlines()[1:-1]
    mac_key = (tmp_path / "ca" / "token.key").read_bytes()
    secrets += [mac_key.hex(), base64.b64encode(mac_key).decode(), str(mac_key)]
    assert not [secret for secret in secrets if secret in shown]
    assert "PRIVATE KEY" not in shown
