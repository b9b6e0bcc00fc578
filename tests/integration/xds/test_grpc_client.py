"""gRPC's own xDS client, which nobody here wrote, reaches a service through our resources, with mutual TLS."""

import asyncio
import json
import os
import sys
from pathlib import Path

import grpc
import pytest

from mesh.identity import CertificateAuthority, write_svid_files
from mesh.identity.svid import create_key
from mesh.model import Declaration, Instance, SpiffeId
from mesh.rpc import ServerSettings, open_server
from mesh.state import MeshState, StateStore
from mesh.xds import AdsServer

PROGRAM = Path(__file__).parent / "programs" / "grpc_client.py"


def sign(authority, service):
    """Key and chain, PEM."""
    key, csr = create_key()
    signed = authority.sign(csr, SpiffeId("mesh.test", "default", service), reason="test")
    return key.encode(), signed.chain_pem.encode()


async def who_am_i(request, context):
    return b" ".join(context.auth_context().get("peer_spiffe_id", [b"nobody"]))


async def run_client(target, bootstrap):
    """Exit status, answer and complaints of a client in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        PROGRAM,
        target,
        env=os.environ | {"GRPC_XDS_BOOTSTRAP": str(bootstrap)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    return process.returncode, said.decode().strip(), errors.decode()


async def call_by_xds(target, bootstrap):
    status, said, errors = await run_client(target, bootstrap)
    assert status == 0, errors[-2000:]
    return said


async def test_a_proxyless_client_calls_by_name_and_each_side_knows_the_other(tmp_path):
    authority = CertificateAuthority.open(tmp_path / "ca", trust_domain="mesh.test")
    key, chain = sign(authority, "echo")
    credentials = grpc.ssl_server_credentials([(key, chain)], authority.bundle_pem.encode(), require_client_auth=True)
    handler = grpc.method_handlers_generic_handler(
        "test.v1.Test", {"WhoAmI": grpc.unary_unary_rpc_method_handler(who_am_i)}
    )
    echo_settings = ServerSettings("echo", "127.0.0.1:0", credentials=credentials)
    async with asyncio.timeout(60), open_server(echo_settings, [], generic_handlers=[handler]) as echo:
        state = MeshState(
            "mesh.test",
            services={"echo": (Instance("echo", "echo-1", "127.0.0.1", echo.port),)},
            declarations={"caller": Declaration("caller", "service", ("echo",))},
        )
        store = StateStore(state)
        ads = AdsServer(store, identity_of=lambda _: SpiffeId("mesh.test", "default", "caller"))
        control_settings = ServerSettings("control-plane", "127.0.0.1:0")
        async with open_server(control_settings, [], generic_handlers=[ads.handler]) as control:
            running = asyncio.create_task(ads.run())
            caller_key, caller_chain = sign(authority, "caller")
            (tmp_path / "key.pem").write_bytes(caller_key)
            (tmp_path / "svid.pem").write_bytes(caller_chain)
            (tmp_path / "bundle.pem").write_text(authority.bundle_pem)
            bootstrap = tmp_path / "bootstrap.json"
            bootstrap.write_text(json.dumps(bootstrap_of(control.port, tmp_path)))
            for target in ("xds:///echo", "xds:///echo.mesh"):
                assert await call_by_xds(target, bootstrap) == "spiffe://mesh.test/ns/default/svc/caller"
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def named_credentials(authority):
    """A control plane that is known by the name under which a client dials it: gRPC checks names, not SPIFFE ids."""
    svid = authority.svid("control-plane", dns_names=("localhost",))
    pair = (svid.private_key.encode(), svid.certificate_chain.encode())
    return grpc.ssl_server_credentials([pair], svid.trust_bundle.encode(), require_client_auth=True)


async def test_the_control_plane_knows_a_proxyless_client_by_its_certificate(
    serve_ads, authority, short_dir, named_credentials
):
    svid = authority.svid("echo")
    pair = (svid.private_key.encode(), svid.certificate_chain.encode())
    credentials = grpc.ssl_server_credentials([pair], svid.trust_bundle.encode(), require_client_auth=True)
    handler = grpc.method_handlers_generic_handler(
        "test.v1.Test", {"WhoAmI": grpc.unary_unary_rpc_method_handler(who_am_i)}
    )
    settings = ServerSettings("echo", "127.0.0.1:0", credentials=credentials)
    store = StateStore(MeshState("mesh.test", declarations={"caller": Declaration("caller", "service", ("echo",))}))
    async with (
        open_server(settings, [], generic_handlers=[handler]) as echo,
        serve_ads(store, credentials=named_credentials) as (_, control),
    ):
        store.set_services({"echo": (Instance("echo", "echo-1", "127.0.0.1", echo.port),)})
        write_svid_files(short_dir, authority.svid("caller"))
        bootstrap = short_dir / "bootstrap.json"
        bootstrap.write_text(json.dumps(bootstrap_of(control.port, short_dir, has_tls=True)))
        assert await call_by_xds("xds:///echo", bootstrap) == "spiffe://mesh.test/ns/default/svc/caller"


def bootstrap_of(port, directory, *, has_tls=False):
    files = {
        "certificate_file": str(directory / "svid.pem"),
        "private_key_file": str(directory / "key.pem"),
        "ca_certificate_file": str(directory / "bundle.pem"),
        "refresh_interval": "60s",
    }
    host = "localhost" if has_tls else "127.0.0.1"
    credentials = {"type": "tls", "config": files} if has_tls else {"type": "insecure"}
    return {
        "xds_servers": [
            {
                "server_uri": f"{host}:{port}",
                "channel_creds": [credentials],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "caller/caller-1"},
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": files}},
    }
