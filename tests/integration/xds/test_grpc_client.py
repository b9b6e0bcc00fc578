"""gRPC's own xDS client, which nobody here wrote, reaches a service through our resources, with mutual TLS."""

import asyncio
import json
import os
import sys
from pathlib import Path

import grpc

from mesh.identity import CertificateAuthority
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


async def call_by_xds(target, bootstrap):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        PROGRAM,
        target,
        env=os.environ | {"GRPC_XDS_BOOTSTRAP": str(bootstrap)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    return said.decode().strip()


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


def bootstrap_of(port, directory):
    files = {
        "certificate_file": str(directory / "svid.pem"),
        "private_key_file": str(directory / "key.pem"),
        "ca_certificate_file": str(directory / "bundle.pem"),
        "refresh_interval": "60s",
    }
    return {
        "xds_servers": [
            {
                "server_uri": f"127.0.0.1:{port}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "caller/caller-1"},
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": files}},
    }
