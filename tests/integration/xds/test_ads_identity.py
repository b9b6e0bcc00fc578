"""ADS over mutual TLS: what a proxy gets follows from its certificate, whatever it says of itself."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.model import Declaration, Instance
from mesh.rpc import open_target
from mesh.state import MeshState, StateStore
from mesh.xds import names
from mesh.xds.descriptors import envoy_message

DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


@pytest.fixture
def store():
    return StateStore(
        MeshState(
            "mesh.test",
            services={"echo": (Instance("echo", "echo-1", "127.0.0.1", 20_001),)},
            declarations={name: Declaration(name, "service", ("echo",)) for name in ("caller", "other")},
        )
    )


def credentials_of(svid):
    return grpc.ssl_channel_credentials(
        svid.trust_bundle.encode(), svid.private_key.encode(), svid.certificate_chain.encode()
    )


def request(node="", **fields):
    made = envoy_message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(**fields)
    if node:
        made.node.id = node
        made.node.metadata.update({"outbound_socket": "/tmp/o.sock", "secrets_dir": "/tmp/s"})
    return made


@contextlib.asynccontextmanager
async def open_call(address, credentials):
    async with open_target(str(address), credentials=credentials, authority="control-plane.mesh") as channel:
        call = channel.stream_stream(
            DELTA,
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=envoy_message("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString,
        )()
        yield call
        call.cancel()


async def ask(call, *requests):
    for it in requests:
        await call.write(it)
    return await call.read()


async def refusal(call, *requests):
    """The error with which a call ends that gets nothing."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        answer = await ask(call, *requests)
        assert answer is grpc.aio.EOF, answer
        await call.wait_for_connection()
    return caught.value


async def test_a_proxy_with_its_own_certificate_gets_its_configuration(serve_ads, authority, store):
    async with serve_ads(store) as (ads, address), open_call(address, credentials_of(authority.svid("caller"))) as call:
        answer = await ask(call, request("caller/caller-1", type_url=names.CLUSTER))
        assert [resource.name for resource in answer.resources] == ["echo"]
        assert str(ads.proxies()[0].spiffe_id) == "spiffe://mesh.test/ns/default/svc/caller"


async def test_a_captured_node_id_gets_nothing_and_is_logged(serve_ads, authority, store, capfd):
    async with serve_ads(store) as (ads, address), open_call(address, credentials_of(authority.svid("other"))) as call:
        error = await refusal(call, request("caller/caller-1", type_url=names.CLUSTER))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert ads.proxies() == ()
    said = [line for line in capfd.readouterr().err.splitlines() if '"node_refused"' in line]
    assert len(said) == 1
    assert '"caller/caller-1"' in said[0]
    assert "spiffe://mesh.test/ns/default/svc/other" in said[0]


async def test_an_edge_for_a_service_that_is_no_gateway_is_refused_and_logged(serve_ads, authority, store, capfd):
    async with serve_ads(store) as (_, address), open_call(address, credentials_of(authority.svid("caller"))) as call:
        wanted = request("caller/caller-1", type_url=names.CLUSTER)
        wanted.node.metadata.update({"edge": "127.0.0.1:1", "app_socket": "/tmp/a.sock"})
        assert (await refusal(call, wanted)).code() is grpc.StatusCode.PERMISSION_DENIED
    assert '"node_refused"' in capfd.readouterr().err


async def test_a_later_request_cannot_turn_the_stream_into_another_services(serve_ads, authority, store):
    async with serve_ads(store) as (ads, address), open_call(address, credentials_of(authority.svid("caller"))) as call:
        await ask(call, request("caller/caller-1", type_url=names.CLUSTER))
        await ask(call, request("other/other-1", type_url=names.ENDPOINT, resource_names_subscribe=["echo"]))
        assert [status.node_id for status in ads.proxies()] == ["caller/caller-1"]


async def test_a_certificate_with_two_identities_has_none(serve_ads, authority, store):
    """Signed by the mesh's own key, as no request to it can get it."""
    root = authority.ca.bundle_pem
    key = ec.generate_private_key(ec.SECP256R1())
    uris = [f"spiffe://mesh.test/ns/default/svc/{name}" for name in ("caller", "other")]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_pem_x509_certificate(root.encode()).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=5))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=True
        )
        .sign(root_key(authority), hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    credentials = grpc.ssl_channel_credentials(root.encode(), pem, certificate.public_bytes(serialization.Encoding.PEM))
    async with serve_ads(store) as (_, address), open_call(address, credentials) as call:
        error = await refusal(call, request("caller/caller-1", type_url=names.CLUSTER))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def root_key(authority):
    (path,) = [path for path in authority.directory.rglob("*key*") if path.is_file()]
    return serialization.load_pem_private_key(path.read_bytes(), password=None)


async def test_without_a_certificate_there_is_no_stream(serve_ads, authority, store):
    credentials = grpc.ssl_channel_credentials(authority.ca.bundle_pem.encode())
    async with serve_ads(store) as (_, address), open_call(address, credentials) as call:
        error = await refusal(call, request("caller/caller-1", type_url=names.CLUSTER))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_garbage_in_the_midst_ends_that_stream_with_an_error(serve_ads, authority, store, eventually):
    async with serve_ads(store) as (ads, address), open_call(address, credentials_of(authority.svid("caller"))) as call:
        await ask(call, request("caller/caller-1", type_url=names.CLUSTER))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call.write(b"\xff" * 100)
            while await call.read() is not grpc.aio.EOF:
                pass
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        await eventually(lambda: ads.proxies() == ())


async def test_an_oversized_request_ends_that_stream_only(serve_ads, authority, store):
    async with (
        serve_ads(store, max_message_bytes=64 << 10) as (_, address),
        open_call(address, credentials_of(authority.svid("other"))) as good,
        open_call(address, credentials_of(authority.svid("caller"))) as bad,
    ):
        first = await ask(good, request("other/other-1", type_url=names.CLUSTER))
        huge = request("caller/caller-1", type_url=names.ENDPOINT, resource_names_subscribe=["x" * (128 << 10)])
        assert (await refusal(bad, huge)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        acknowledged = request(type_url=names.CLUSTER, response_nonce=first.nonce)
        answer = await ask(good, acknowledged, request(type_url=names.ENDPOINT, resource_names_subscribe=["echo"]))
        assert [resource.name for resource in answer.resources] == ["echo"]


async def test_a_client_that_asks_without_end_and_never_reads_holds_up_nobody(serve_ads, authority, store):
    """Its answers fill the connection; the server stops to read from it, and serves the others."""
    big = {f"s{n}": (Instance(f"s{n}", f"s{n}-1", "127.0.0.1", 20_000 + n),) for n in range(300)}
    store.set_services({**store.current.services, **big})
    store.set_declarations({name: Declaration(name, "service", ("*",)) for name in ("caller", "other")})
    async with (
        serve_ads(store) as (_, address),
        open_call(address, credentials_of(authority.svid("caller"))) as slow,
        open_call(address, credentials_of(authority.svid("other"))) as quick,
    ):
        await slow.write(request("caller/caller-1", type_url=names.CLUSTER))
        everything = sorted(big)

        async def flood():
            # An answer with the nonce of what it never read: each round asks for all endpoints again.
            for nonce in range(1, 100_000):
                await slow.write(
                    request(type_url=names.ENDPOINT, resource_names_subscribe=everything, response_nonce=str(nonce))
                )

        flooding = asyncio.create_task(flood())
        answer = await ask(quick, request("other/other-1", type_url=names.CLUSTER))
        await quick.write(request(type_url=names.CLUSTER, response_nonce=answer.nonce))
        answer = await ask(quick, request(type_url=names.ENDPOINT, resource_names_subscribe=["echo"]))
        for number in range(2, 30):
            await quick.write(request(type_url=names.ENDPOINT, response_nonce=answer.nonce))
            echo = (Instance("echo", "echo-1", "127.0.0.1", 30_000 + number),)
            store.set_services({**store.current.services, "echo": echo})
            answer = await quick.read()
            assert [resource.name for resource in answer.resources] == ["echo"]
        assert not flooding.done()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
