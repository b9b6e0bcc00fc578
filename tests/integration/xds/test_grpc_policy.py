"""gRPC's own xDS client follows the mesh document as far as it can, and refuses nothing of it."""

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

import grpc
import pytest

from mesh.config.document import MeshDocument, Policy
from mesh.identity import write_svid_files
from mesh.model import Declaration, Instance
from mesh.rpc import ServerSettings, open_server
from mesh.state import MeshState, StateStore

PROGRAM = Path(__file__).parent / "programs" / "grpc_caller.py"
SUBSETS = {"one": {"version": "1"}, "two": {"version": "2"}, "none": {"version": "9"}}


class Answerer:
    """An instance of a service; it answers with its name and counts its calls."""

    def __init__(self, name):
        self.name = name
        self.calls = 0
        self.fails = 0

    async def say(self, request, context):
        self.calls += 1
        if self.calls <= self.fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "on purpose")
        return self.name.encode()


@contextlib.asynccontextmanager
async def open_answerer(authority, service, name):
    svid, answerer = authority.svid(service), Answerer(name)
    pair = (svid.private_key.encode(), svid.certificate_chain.encode())
    credentials = grpc.ssl_server_credentials([pair], svid.trust_bundle.encode(), require_client_auth=True)
    methods = {"Name": grpc.unary_unary_rpc_method_handler(answerer.say)}
    handler = grpc.method_handlers_generic_handler("test.v1.Test", methods)
    settings = ServerSettings(service, "127.0.0.1:0", credentials=credentials, drain_grace=0.2)
    async with open_server(settings, [], generic_handlers=[handler]) as server:
        yield answerer, server.port


@contextlib.asynccontextmanager
async def open_caller(bootstrap):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        PROGRAM,
        env=os.environ | {"GRPC_XDS_BOOTSTRAP": str(bootstrap)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def call(line):
        process.stdin.write(f"{line}\n".encode())
        return (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()

    try:
        yield call
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def bootstrap_of(port, directory):
    files = {
        "certificate_file": str(directory / "svid.pem"),
        "private_key_file": str(directory / "key.pem"),
        "ca_certificate_file": str(directory / "bundle.pem"),
        "refresh_interval": "60s",
    }
    credentials = [{"type": "tls", "config": files}]
    server = {"server_uri": f"localhost:{port}", "channel_creds": credentials, "server_features": ["xds_v3"]}
    return {
        "xds_servers": [server],
        "node": {"id": "caller/caller-1"},
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": files}},
    }


@pytest.fixture
async def client(serve_ads, authority, short_dir, eventually):
    """A proxyless client with echo in two versions and a backup, and a way to change the document."""
    svid = authority.svid("control-plane", dns_names=("localhost",))
    pair = (svid.private_key.encode(), svid.certificate_chain.encode())
    credentials = grpc.ssl_server_credentials([pair], svid.trust_bundle.encode(), require_client_auth=True)
    write_svid_files(short_dir, authority.svid("caller"))
    declared = {"caller": Declaration("caller", "service", ("echo", "backup"))}
    store = StateStore(MeshState("mesh.test", declarations=declared))
    async with (
        open_answerer(authority, "echo", "one") as (one, first),
        open_answerer(authority, "echo", "two") as (two, second),
        open_answerer(authority, "backup", "backup") as (backup, third),
        serve_ads(store, credentials=credentials) as (ads, control),
    ):
        echo = tuple(
            Instance("echo", f"echo-{n}", "127.0.0.1", port, version=str(n)) for n, port in ((1, first), (2, second))
        )
        store.set_services({"echo": echo, "backup": (Instance("backup", "backup-1", "127.0.0.1", third),)})
        bootstrap = short_dir / "bootstrap.json"
        bootstrap.write_text(json.dumps(bootstrap_of(control.port, short_dir)))
        async with open_caller(bootstrap) as call:

            async def apply(echo_policy, **more):
                """Make a document hold, and wait until the client has taken it."""
                document = MeshDocument.model_validate({"services": {"echo": echo_policy, **more}})
                store.set_policy(Policy(document))
                await call("xds:///echo")

                def has_taken():
                    kinds = [kind for proxy in ads.proxies() for kind in proxy.resources]
                    assert [kind.nack_message for kind in kinds if kind.nack_message] == []
                    return all(kind.sent_version == kind.acked_version for kind in kinds)

                await eventually(has_taken)
                for answerer in (one, two, backup):
                    answerer.calls = answerer.fails = 0

            yield call, apply, {"one": one, "two": two, "backup": backup}


async def settles(call, line, expected, times=1):
    """Calls until so many answers are as expected: what was acknowledged is in use a moment later."""
    async with asyncio.timeout(10):
        while {await call(line) for _ in range(times)} != {expected}:
            pass


async def test_the_client_follows_routes_splits_subsets_and_fallbacks(client):
    call, apply, _ = client
    routes = [
        {"name": "no", "match": {"authority": "echo", "headers": {"x-user": "ann"}}, "to": "echo/one"},
        {"name": "ann", "match": {"headers": {"x-user": {"prefix": "an"}}}, "to": "backup"},
        {"name": "m", "match": {"grpc": {"service": "test.v1.Test"}, "headers": {"x-two": "yes"}}, "to": "echo/two"},
    ]
    await apply({"subsets": SUBSETS, "routes": routes, "split": {"echo/one": 100, "backup": 0}})
    await settles(call, "xds:///echo x-user=ann", "backup")
    await settles(call, "xds:///echo x-two=yes", "two")
    assert [await call("xds:///echo") for _ in range(5)] == ["one"] * 5
    await apply({"subsets": SUBSETS, "split": {"echo/one": 1, "backup": 1}})
    await settles(call, "xds:///echo", "backup")
    found = Counter([await call("xds:///echo") for _ in range(60)])
    assert 10 <= found["backup"] <= 50
    await apply({"fallback": ["backup"], "subsets": SUBSETS, "split": {"echo": 1}})
    found = Counter([await call("xds:///echo") for _ in range(20)])
    assert found["one"] and found["two"]


async def test_the_client_follows_faults_retries_hashes_and_timeouts(client):
    call, apply, answerers = client
    await apply({"fault": {"abort": {"grpc": "DATA_LOSS"}}})
    await settles(call, "xds:///echo", "DATA_LOSS")
    await apply({"fault": {"abort": {"grpc": "DATA_LOSS"}, "headers": {"x-fault": "yes"}}})
    await settles(call, "xds:///echo", "one")
    retry = {"attempts": 3, "on": ["unavailable", "reset"]}
    await apply({"retry": retry, "subsets": SUBSETS, "split": {"echo/one": 1}})
    # Without the split the two would take turns.
    await settles(call, "xds:///echo", "one", times=5)
    answerers["one"].calls, answerers["one"].fails = 0, 2
    assert await call("xds:///echo") == "one"
    assert answerers["one"].calls == 3
    await apply({"load_balancing": {"policy": "ring_hash", "hash_on": ["header:x-user", "source_ip"]}})
    # Which of the two it is depends on their ports.
    async with asyncio.timeout(10):
        while len({await call("xds:///echo x-user=a") for _ in range(10)}) != 1:
            pass
    for user in ("a", "b", "c"):
        assert len({await call(f"xds:///echo x-user={user}") for _ in range(5)}) == 1


async def test_the_client_refuses_nothing_of_a_document_with_everything(client):
    call, apply, _ = client
    await apply(
        {
            "authorities": ["bank.example.org"],
            "subsets": SUBSETS,
            "fallback": ["backup"],
            "load_balancing": {"policy": "maglev", "hash_on": ["cookie:a", "header:x-user"], "table_size": 101},
            "circuit_breaker": {"max_requests": 10},
            "outlier_detection": {"failure_percentage": 50, "base_ejection_time": "2m"},
            "health_check": {"kind": "grpc"},
            "timeout": "5s",
            "idle_timeout": "5s",
            "routes": [
                {
                    "name": "all",
                    "match": {"path": {"suffix": "/Name"}, "http_method": "POST"},
                    "split": {"echo/one": 1, "echo": 2},
                    "mirror": {"to": "backup"},
                    "rewrite": {"authority": "x"},
                    "retry": {"on": ["cancelled", "5xx"], "per_try_timeout": "1s", "hedge": True},
                    "headers": {"request": {"set": {"x-a": "b"}}},
                    "rate_limit": {"requests": 5},
                },
            ],
        },
        backup={"load_balancing": {"policy": "random"}, "outlier_detection": {"enabled": False}},
    )
    await settles(call, "xds:///bank.example.org", "one")
    assert await call("xds:///backup.mesh") == "backup"
