"""State of the world over mutual TLS: clients that a test writes by hand, and gRPC's own one when it refuses."""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import grpc
import pytest

from mesh.identity import write_svid_files
from mesh.model import Declaration, Instance
from mesh.rpc import ServerSettings, open_server, open_target
from mesh.state import MeshState, StateStore
from mesh.xds import names, outline
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources import build_resource

STATE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
PROGRAM = Path(__file__).parent / "programs" / "grpc_caller.py"
UPSTREAMS = ("echo", "other")


def instance(service, port=20_001):
    return Instance(service, f"{service}-1", "127.0.0.1", port)


@pytest.fixture
def store():
    return StateStore(
        MeshState(
            "mesh.test",
            services={name: (instance(name),) for name in UPSTREAMS},
            declarations={name: Declaration(name, "service", UPSTREAMS) for name in ("caller", "quick")},
        )
    )


class Client:
    """Speaks state of the world, as gRPC does; `read` acknowledges nothing by itself."""

    def __init__(self, call, node):
        self.call = call
        self._node = node

    async def ask(self, url, wanted=(), *, answers=None, error=""):
        request = envoy_message("envoy.service.discovery.v3.DiscoveryRequest")(type_url=url, resource_names=wanted)
        request.node.id = self._node
        request.node.user_agent_name = "gRPC C-core"
        if answers is not None:
            request.response_nonce = answers.nonce
            request.version_info = "" if error else answers.version_info
        if error:
            request.error_detail.message = error
        await self.call.write(request)

    async def read(self):
        response = await self.call.read()
        assert response is not grpc.aio.EOF
        return response


def names_in(response):
    found = []
    for packed in response.resources:
        message = envoy_message(packed.type_url.rpartition("/")[2]).FromString(packed.value)
        found.append(message.cluster_name if response.type_url == names.ENDPOINT else message.name)
    return found


@contextlib.asynccontextmanager
async def open_client(address, svid, node):
    credentials = grpc.ssl_channel_credentials(
        svid.trust_bundle.encode(), svid.private_key.encode(), svid.certificate_chain.encode()
    )
    async with open_target(str(address), credentials=credentials, authority="control-plane.mesh") as channel:
        call = channel.stream_stream(
            STATE,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=envoy_message("envoy.service.discovery.v3.DiscoveryResponse").FromString,
        )()
        yield Client(call, node)
        call.cancel()


async def test_a_captured_node_id_gets_nothing(serve_ads, authority, store, capfd):
    async with (
        serve_ads(store) as (ads, address),
        open_client(address, authority.svid("other"), "caller/caller-1") as client,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.ask(names.CLUSTER, ["echo"])
            await client.read()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert ads.proxies() == ()
    assert capfd.readouterr().err.count('"node_refused"') == 1


async def test_only_declared_upstreams_are_to_be_had(serve_ads, authority, store):
    store.set_declarations({"caller": Declaration("caller", "service", ("echo",))})
    async with (
        serve_ads(store) as (_, address),
        open_client(address, authority.svid("caller"), "caller/caller-1") as client,
    ):
        await client.ask(names.CLUSTER, ["echo", "other"])
        assert names_in(await client.read()) == ["echo"]


async def test_an_acknowledged_state_is_sent_again_only_when_it_changes(serve_ads, authority, store):
    async with (
        serve_ads(store) as (_, address),
        open_client(address, authority.svid("caller"), "caller/caller-1") as client,
    ):
        for url in (names.CLUSTER, names.ENDPOINT):
            await client.ask(url, UPSTREAMS)
            answer = await client.read()
            assert names_in(answer) == list(UPSTREAMS)
            await client.ask(url, UPSTREAMS, answers=answer)
        # What none of its upstreams has changed for comes to nobody; the next thing that comes is the change.
        store.set_declarations({**store.current.declarations, "stranger": Declaration("stranger", "service")})
        store.set_services({"echo": (instance("echo", 20_002),), "other": (instance("other"),)})
        assert (await client.read()).type_url == names.ENDPOINT


async def test_a_client_that_does_not_read_holds_up_nobody(serve_ads, authority, store):
    async with (
        serve_ads(store) as (_, address),
        open_client(address, authority.svid("caller"), "caller/caller-1") as slow,
        open_client(address, authority.svid("quick"), "quick/quick-1") as quick,
    ):
        await slow.ask(names.ENDPOINT, UPSTREAMS)
        await quick.ask(names.ENDPOINT, UPSTREAMS)
        for port in range(20_002, 20_100):
            await quick.ask(names.ENDPOINT, UPSTREAMS, answers=await quick.read())
            store.set_services({"echo": (instance("echo", port),), "other": (instance("other"),)})
        assert names_in(await quick.read()) == ["echo"]


@contextlib.asynccontextmanager
async def open_echo(authority, answer):
    """The service echo, by its own mutual TLS."""

    async def say(request, context):
        return answer

    svid = authority.svid("echo")
    pair = (svid.private_key.encode(), svid.certificate_chain.encode())
    credentials = grpc.ssl_server_credentials([pair], svid.trust_bundle.encode(), require_client_auth=True)
    handler = grpc.method_handlers_generic_handler("test.v1.Test", {"Name": grpc.unary_unary_rpc_method_handler(say)})
    settings = ServerSettings("echo", "127.0.0.1:0", credentials=credentials, drain_grace=0.2)
    async with open_server(settings, [], generic_handlers=[handler]) as server:
        yield server.port


@contextlib.asynccontextmanager
async def open_caller(bootstrap):
    """gRPC's own client in a process of its own; gives what calls a target and returns what came of it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        PROGRAM,
        env=os.environ | {"GRPC_XDS_BOOTSTRAP": str(bootstrap)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def call(target):
        process.stdin.write(f"{target}\n".encode())
        return (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()

    try:
        yield call
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_grpcs_own_client_goes_on_with_the_last_good_cluster_after_it_has_refused_one(
    serve_ads, authority, store, short_dir, eventually, monkeypatch, capfd
):
    server_svid = authority.svid("control-plane", dns_names=("localhost",))
    pair = (server_svid.private_key.encode(), server_svid.certificate_chain.encode())
    credentials = grpc.ssl_server_credentials([pair], server_svid.trust_bundle.encode(), require_client_auth=True)
    write_svid_files(short_dir, authority.svid("caller"))

    def with_unknown_policy(service, *_):
        """gRPC does not know the policy RANDOM, and refuses."""
        literal = {"type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}, "lb_policy": "RANDOM"}
        return build_resource(names.CLUSTER, service, {"name": service} | literal)

    async with (
        open_echo(authority, b"first") as first,
        open_echo(authority, b"second") as second,
        serve_ads(store, credentials=credentials) as (ads, control),
    ):
        store.set_services({"echo": (instance("echo", first),)})
        bootstrap = short_dir / "bootstrap.json"
        bootstrap.write_text(json.dumps(bootstrap_of(control.port, short_dir)))

        def held_back():
            return [kind.held_back for proxy in ads.proxies() for kind in proxy.resources if kind.type == "cluster"]

        async with open_caller(bootstrap) as call:
            assert await call("xds:///echo") == "first"
            monkeypatch.setattr(outline, "build_client_cluster", with_unknown_policy)
            store.set_declarations({"caller": Declaration("caller", "agent", ("echo",))})
            await eventually(lambda: held_back() == [("echo",)])
            assert await call("xds:///echo") == "first"
            store.set_services({"echo": (instance("echo", second),)})
            async with asyncio.timeout(10):
                while await call("xds:///echo") != "second":
                    pass
            assert held_back() == [("echo",)]
    assert capfd.readouterr().err.count('"config_rejected"') == 1


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
                # gRPC checks the name that it dials, not the SPIFFE id.
                "server_uri": f"localhost:{port}",
                "channel_creds": [{"type": "tls", "config": files}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "caller/caller-1"},
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": files}},
    }
