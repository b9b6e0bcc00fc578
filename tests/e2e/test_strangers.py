"""Who is not of the mesh gets nothing from it."""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sidecar_ports(mesh):
    services = mesh.json("status")["services"]
    return {service["name"]: int(service["addresses"][0].rpartition(":")[2]) for service in services}


def foreign_certificate(spiffe_id):
    """A certificate that names a member of the mesh, signed by nobody whom the mesh trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def check_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=5)


def test_a_plaintext_client_cannot_speak_to_any_sidecar(sidecar_ports):
    for port in sidecar_ports.values():
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            check_health(channel)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_a_client_of_another_authority_cannot_speak_to_any_sidecar(mesh, sidecar_ports, tmp_path):
    chain, key = foreign_certificate("spiffe://agentmesh.local/ns/default/svc/gateway")
    (tmp_path / "chain.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    for port in sidecar_ports.values():
        assert answer_to_preface(port, context) == b""


def answer_to_preface(port, context):
    """What a sidecar says to the beginning of an HTTP/2 connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw, contextlib.suppress(ssl.SSLError, OSError):
        # With TLS 1.3 the refusal of a client's certificate comes after the client's side of the handshake.
        with context.wrap_socket(raw, server_hostname="any") as wrapped:
            wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return wrapped.recv(1024)
    return b""


def test_a_client_without_a_certificate_cannot_speak_to_any_sidecar(mesh, sidecar_ports):
    bundle = (mesh.state_dir / "run" / "financial-1" / "secrets" / "bundle.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(bundle)
    for name, port in sidecar_ports.items():
        options = [("grpc.ssl_target_name_override", f"{name}.mesh")]
        with (
            grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            check_health(channel)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def list_tools_directly(port, files):
    """Call the sidecar of `financial` at its own port, with the certificate in `files`."""
    words = [Path(sys.executable).with_name("buf"), "curl", "--insecure", "--protocol", "grpc", "--schema", ROOT]
    words += ["--cert", files / "svid.pem", "--key", files / "key.pem", "-d", "{}"]
    url = f"https://127.0.0.1:{port}/agentmesh.mcp.v1.McpBridgeService/ListTools"
    return subprocess.run([*words, url], capture_output=True, text=True, timeout=30)


def test_the_registrys_identity_may_ask_for_health_and_nothing_else(mesh, sidecar_ports):
    by_member = list_tools_directly(sidecar_ports["financial"], mesh.state_dir / "run" / "gateway-1" / "secrets")
    assert by_member.returncode == 0, by_member.stderr
    by_registry = list_tools_directly(sidecar_ports["financial"], mesh.state_dir / "identity" / "consul")
    assert json.loads(by_registry.stderr)["code"] == "permission_denied"


def test_an_undeclared_upstream_cannot_be_called(mesh):
    options = [("grpc.default_authority", "utilities.mesh")]
    with (
        grpc.insecure_channel(mesh.outbound("financial-1"), options) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        check_health(channel)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "has not declared" in caught.value.details()


def test_a_captured_node_id_gets_nothing(mesh):
    """The certificate of utilities, the node id of financial: refused, logged, and not one resource is sent."""
    files = mesh.state_dir / "run" / "utilities-1" / "secrets"
    credentials = grpc.ssl_channel_credentials(
        *((files / name).read_bytes() for name in ("bundle.pem", "key.pem", "svid.pem"))
    )
    # A DeltaDiscoveryRequest, by hand: node (1) with id (1), and type_url (2).
    node = b"financial/financial-1"
    kind = b"type.googleapis.com/envoy.config.cluster.v3.Cluster"
    request = bytes([0x0A, len(node) + 2, 0x0A, len(node)]) + node + bytes([0x12, len(kind)]) + kind
    options = [("grpc.ssl_target_name_override", "control-plane.mesh")]
    with grpc.secure_channel(mesh.env["MESH_CONTROL_BIND"], credentials, options) as channel:
        stream = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        )
        answers = []
        with pytest.raises(grpc.RpcError) as caught:
            answers.extend(stream(iter([request]), timeout=10))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert answers == []
    assert "node_refused" in mesh.meshctl("logs", "control-plane").stdout


def test_the_callee_sees_the_callers_identity_and_no_claim_of_the_caller(mesh):
    options = [("grpc.default_authority", "echo.mesh")]
    claim = ("x-forwarded-client-cert", "URI=spiffe://agentmesh.local/ns/default/svc/gateway")
    with grpc.insecure_channel(mesh.outbound("caller-1"), options) as channel:
        answer = channel.unary_unary("/echo.v1.Echo/Say")(b"0", metadata=[claim], timeout=10)
    _, _, seen = answer.decode().partition(" ")
    assert "URI=spiffe://agentmesh.local/ns/default/svc/caller" in seen
    assert "svc/gateway" not in seen
