"""Envoy itself takes what we build, over mutual TLS ADS, and ends up with what it should have."""

import asyncio
import contextlib
import json
import socket
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from benchmarks.ports import free_ports
from mesh.identity import open_server_credentials, write_svid_files
from mesh.model import Address, Declaration, Instance, ProxySpec, SpiffeId
from mesh.rpc import ServerSettings, open_server, open_target
from mesh.runtime import open_background
from mesh.sidecar.bootstrap import ControlPlane, build_bootstrap
from mesh.state import MeshState, StateStore
from mesh.xds import AdsServer, names, outline
from mesh.xds.descriptors import envoy_binary, envoy_message, envoy_pool
from mesh.xds.reconcile import Reconciler
from mesh.xds.resources import build_resource

TRUST_DOMAIN = "mesh.test"
SHORT = {short: url for url, short in names.SHORT_NAMES.items()}
# Envoy waits 15 s for endpoints that it is not sent. What is to come at once must come well before that.
AT_ONCE = 8.0


class Envoy:
    """A running Envoy and what its admin interface says."""

    def __init__(self, spec, process, session):
        self.spec = spec
        self.process = process
        self._session = session

    async def ask(self, path):
        async with self._session.get(f"http://envoy{path}") as response:
            return response.status, await response.text()

    async def is_live(self):
        assert self.process.returncode is None, "Envoy has ended"
        with contextlib.suppress(aiohttp.ClientError, OSError):
            return (await self.ask("/ready"))[0] == 200
        return False

    async def stats(self, pattern):
        _, text = await self.ask(f"/stats?filter={pattern}")
        return {name: int(value) for name, value in (line.split(": ") for line in text.splitlines()) if value.isdigit()}

    async def has(self, kind):
        """Versions by name, as Envoy itself reports them."""
        lists = {
            "cluster": "dynamic_active_clusters",
            "route": "dynamic_route_configs",
            "listener": "dynamic_listeners",
        }
        _, text = await self.ask(f"/config_dump?resource={lists[kind]}")
        found = {}
        for config in json.loads(text).get("configs", ()):
            state = config.get("active_state", config)
            inner = config.get("cluster") or config.get("route_config") or config
            if "version_info" in state:
                found[inner["name"]] = state["version_info"]
        return found

    async def endpoints(self, cluster):
        """Ports that Envoy has for a cluster."""
        _, text = await self.ask("/clusters?format=json")
        for status in json.loads(text)["cluster_statuses"]:
            if status["name"] == cluster:
                addresses = (host["address"].get("socket_address", {}) for host in status.get("host_statuses", ()))
                return sorted(address.get("port_value", 0) for address in addresses)
        return None


@pytest.fixture
def specs(short_dir):
    """Each kind of proxy, at places that are free."""
    inbound, other, exposed, edge = free_ports(4)

    def spec(service, number, **more):
        run = short_dir / f"{service}-{number}"
        run.mkdir(mode=0o700)
        return ProxySpec(service, f"{service}-{number}", f"{run}/out.sock", f"{run}/secrets", **more)

    def app(service):
        return f"{short_dir}/{service}.app"

    return {
        "sidecar": spec("caller", 1, app_socket=app("caller"), inbound=Address("127.0.0.1", inbound)),
        "gateway": spec("gateway", 1, app_socket=app("gateway"), edge=Address("127.0.0.1", edge)),
        "exposed_health": spec(
            "echo",
            1,
            app_socket=app("echo"),
            inbound=Address("127.0.0.1", other),
            exposed_health=Address("127.0.0.1", exposed),
        ),
        "pure_client": spec("caller", 2),
    }


@pytest.fixture
def store(specs):
    return StateStore(
        MeshState(
            TRUST_DOMAIN,
            services={"echo": (instance("echo", specs["exposed_health"].inbound.port),)},
            declarations={
                "caller": Declaration("caller", "agent", ("echo", "nobody-yet")),
                "gateway": Declaration("gateway", "gateway", ("*",)),
                "echo": Declaration("echo", "service"),
            },
        )
    )


def instance(service, port, number=1):
    return Instance(service, f"{service}-{number}", "127.0.0.1", port)


@pytest.fixture
def serve(authority):
    """A control plane's ADS port; with `port` it takes the place of an earlier one."""

    @contextlib.asynccontextmanager
    async def serve(store, *, port=0, ready=None):
        ads = AdsServer(store, ready=ready)
        async with (
            asyncio.timeout(40),
            open_server_credentials(authority.ca, require_client_certificate=True) as tls,
            open_background(ads.run()),
        ):
            settings = ServerSettings(
                "control-plane", f"127.0.0.1:{port}", credentials=tls.credentials, drain_grace=0.2
            )
            async with open_server(settings, [], generic_handlers=[ads.handler]) as server:
                yield ads, Address("127.0.0.1", server.port)

    return serve


def write_bootstrap(spec, control, authority, change=lambda bootstrap: None):
    write_svid_files(Path(spec.secrets_dir), authority.svid(spec.service))
    run = Path(spec.outbound_socket).parent
    identity = SpiffeId(TRUST_DOMAIN, "default", "control-plane")
    bootstrap = build_bootstrap(spec, ControlPlane((control,), identity), admin_socket=f"{run}/admin.sock")
    change(bootstrap)
    path = run / "bootstrap.json"
    path.write_text(json.dumps(bootstrap))
    return path


@pytest.fixture
def open_envoy(authority, eventually_true):
    """An Envoy that is live, and gone at the end."""

    @contextlib.asynccontextmanager
    async def open_envoy(spec, control, *, is_live=True):
        path = write_bootstrap(spec, control, authority)
        log = (path.parent / "envoy.log").open("wb")
        process = await asyncio.create_subprocess_exec(
            envoy_binary(),
            *("--config-path", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
            stdout=log,
            stderr=log,
        )
        try:
            connector = aiohttp.UnixConnector(path=str(path.parent / "admin.sock"))
            async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session:
                envoy = Envoy(spec, process, session)
                if is_live:
                    await eventually_true(envoy.is_live)
                yield envoy
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            log.close()

    return open_envoy


@pytest.fixture
def eventually_true():
    """Waits until a question is answered with yes."""

    async def wait(question, timeout=AT_ONCE):
        async with asyncio.timeout(timeout):
            while not await question():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def open_echo(specs):
    """An application behind the sidecar of echo, on its unix socket; it tells who calls."""

    @contextlib.asynccontextmanager
    async def open_echo():
        async def say(request, context):
            return dict(context.invocation_metadata()).get("x-forwarded-client-cert", "").encode()

        methods = {"Say": grpc.unary_unary_rpc_method_handler(say)}
        handler = grpc.method_handlers_generic_handler("echo.v1.Echo", methods)
        settings = ServerSettings("echo", f"unix:{specs['exposed_health'].app_socket}", drain_grace=0.2)
        async with open_server(settings, [], generic_handlers=[handler]) as server:
            await server.set_serving(True)
            yield server

    return open_echo


@contextlib.asynccontextmanager
async def open_way_out(spec, service="echo"):
    async with open_target(f"unix:{spec.outbound_socket}", authority=f"{service}.mesh") as channel:
        yield channel.unary_unary("/echo.v1.Echo/Say")


def refusals(ads):
    return [(kind.type, kind.nack_message) for proxy in ads.proxies() for kind in proxy.resources if kind.nack_message]


def settled(ads, count=1):
    """True when each proxy has acknowledged the newest response of each type."""
    proxies = ads.proxies()
    return len(proxies) == count and all(
        {kind.type for kind in proxy.resources} | {"extension"} == set(SHORT)
        and all(kind.acked_version == kind.sent_version != "" for kind in proxy.resources)
        for proxy in proxies
    )


KINDS = ["sidecar", "gateway", "exposed_health", "pure_client"]


@pytest.mark.parametrize("kind", KINDS)
async def test_envoy_takes_all_that_each_kind_of_proxy_gets(
    kind, serve, authority, store, specs, open_envoy, eventually_true
):
    spec = specs[kind]
    if not store.current.upstreams_of(spec.service):
        store.set_declarations(
            {**store.current.declarations, spec.service: Declaration(spec.service, "service", ("caller",))}
        )
    async with serve(store) as (ads, control), open_envoy(spec, control) as envoy:

        async def is_settled():
            return settled(ads)

        await eventually_true(is_settled)
        assert refusals(ads) == []
        wanted = Reconciler().sidecar_snapshot(store.current, spec)
        for short in ("cluster", "listener", "route"):
            found = {name: resource.version for name, resource in wanted.of(SHORT[short]).items()}
            assert await envoy.has(short) == found


@pytest.mark.parametrize("kind", KINDS)
async def test_envoy_finds_no_fault_in_the_same_configuration_without_a_control_plane(kind, authority, store, specs):
    """`--mode validate` looks at static resources only, so routes go into listeners, endpoints into clusters."""
    spec = specs[kind]
    snapshot = Reconciler().sidecar_snapshot(store.current, spec)

    def to_static(bootstrap):
        del bootstrap["dynamic_resources"]["lds_config"], bootstrap["dynamic_resources"]["cds_config"]
        found = {url: {n: to_dict(r) for n, r in snapshot.of(url).items()} for url in names.PUSH_ORDER}
        for listener in found[names.LISTENER].values():
            manager = listener["filter_chains"][0]["filters"][-1]["typed_config"]
            if rds := manager.pop("rds", None):
                manager["route_config"] = found[names.ROUTE][rds["route_config_name"]] | {"validate_clusters": True}
        for cluster in found[names.CLUSTER].values():
            if cluster.pop("eds_cluster_config", None):
                cluster |= {"type": "STATIC", "load_assignment": found[names.ENDPOINT][cluster["name"]]}
        bootstrap["static_resources"]["clusters"] += found[names.CLUSTER].values()
        bootstrap["static_resources"]["listeners"] = list(found[names.LISTENER].values())

    path = write_bootstrap(spec, Address("127.0.0.1", 1), authority, to_static)
    process = await asyncio.create_subprocess_exec(
        envoy_binary(),
        *("--mode", "validate", "--config-path", path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-2000:]


def to_dict(resource):
    message = envoy_message(resource.type_url.rpartition("/")[2]).FromString(resource.body)
    return MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=envoy_pool())


async def test_a_call_goes_through_two_sidecars_and_a_new_endpoint_is_used(
    serve, store, specs, open_envoy, open_echo, eventually_true
):
    caller, echo = specs["sidecar"], specs["exposed_health"]
    (gone,) = free_ports(1)
    store.set_services({"echo": (instance("echo", gone),)})
    async with (
        serve(store) as (_, control),
        open_echo(),
        open_envoy(echo, control),
        open_envoy(caller, control) as envoy,
        open_way_out(caller) as say,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await envoy.endpoints("echo") == [gone]
        store.set_services({"echo": (instance("echo", echo.inbound.port, 2),)})

        async def has_arrived():
            return await envoy.endpoints("echo") == [echo.inbound.port]

        await eventually_true(has_arrived)
        assert b"URI=spiffe://mesh.test/ns/default/svc/caller" in await say(b"", timeout=5)


async def test_a_changed_cluster_is_in_use_at_once_on_the_same_stream_and_after_a_reconnect(
    serve, store, specs, open_envoy, eventually_true, monkeypatch
):
    """Without its endpoints Envoy keeps the old cluster until its initial_fetch_timeout of 15 s is over."""
    spec = specs["sidecar"]
    build = outline.build_upstream_cluster

    def change_clusters(timeout):
        def changed(*args):
            resource = build(*args)
            return build_resource(names.CLUSTER, resource.name, to_dict(resource) | {"connect_timeout": timeout})

        monkeypatch.setattr(outline, "build_upstream_cluster", changed)

    async def is_in_use():
        wanted = Reconciler().sidecar_snapshot(store.current, spec).of(names.CLUSTER)
        warming = await envoy.stats("cluster_manager.warming_clusters")
        found = await envoy.has("cluster")
        return found == {name: resource.version for name, resource in wanted.items()} and not any(warming.values())

    async with serve(store) as (_, control):
        async with open_envoy(spec, control) as envoy:
            await eventually_true(is_in_use)
            change_clusters("2s")
            caller = store.current.declarations["caller"]
            store.set_declarations({**store.current.declarations, "caller": replace(caller, kind="service")})
            store.set_services({"echo": (instance("echo", 1),)})
            await eventually_true(is_in_use)
            assert await envoy.endpoints("echo") == [1]
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        _, control = await first.enter_async_context(serve(store))
        envoy = await stack.enter_async_context(open_envoy(spec, control))
        await first.aclose()
        change_clusters("3s")
        await stack.enter_async_context(serve(store, port=control.port))
        await eventually_true(is_in_use)


async def test_a_listener_that_envoy_cannot_bind_is_refused_once_and_the_others_work(
    serve, store, specs, open_envoy, eventually_true, capfd
):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        spec = replace(specs["sidecar"], inbound=Address(*taken.getsockname()))
        async with serve(store) as (ads, control), open_envoy(spec, control, is_live=False) as envoy:

            async def is_held():
                return any(kind.held_back == ("inbound",) for proxy in ads.proxies() for kind in proxy.resources)

            await eventually_true(is_held)
            store.set_services({"echo": (instance("echo", 7),)})

            async def has_arrived():
                return await envoy.endpoints("echo") == [7]

            await eventually_true(has_arrived)
            assert set(await envoy.has("listener")) >= {"outbound"}
    assert capfd.readouterr().err.count('"config_rejected"') == 1


async def test_a_restarted_control_plane_changes_nothing_and_takes_no_endpoint_away(
    serve, store, specs, open_envoy, open_echo, eventually_true
):
    """Not even while the new one has not heard from the registry yet."""
    caller, echo = specs["sidecar"], specs["exposed_health"]
    counters = "cluster_modified|cluster_added|cluster_removed|listener_added|listener_modified|membership_change"
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        ads, control = await first.enter_async_context(serve(store))
        await stack.enter_async_context(open_echo())
        await stack.enter_async_context(open_envoy(echo, control))
        envoy = await stack.enter_async_context(open_envoy(caller, control))
        say = await stack.enter_async_context(open_way_out(caller))

        async def is_connected():
            return len(ads.proxies()) == 2

        await eventually_true(is_connected)
        await say(b"", timeout=5)
        before = await envoy.stats(counters)
        await first.aclose()
        ready = asyncio.Event()
        known, empty = store.current.services, StateStore(replace(store.current, services={}))
        ads, _ = await stack.enter_async_context(serve(empty, port=control.port, ready=ready))

        async def has_come_back():
            return (await envoy.stats("control_plane.connected_state")).get("control_plane.connected_state") == 1

        await eventually_true(has_come_back)
        await say(b"", timeout=5)
        assert ads.proxies() == ()
        empty.set_services(known)
        ready.set()

        async def has_been_answered():
            """Who asks for all clusters and listeners is answered, if only with nothing new."""
            acknowledged = [kind.type for p in ads.proxies() for kind in p.resources if kind.acked_version]
            return acknowledged.count("cluster") == acknowledged.count("listener") == 2

        await eventually_true(has_been_answered)
        await say(b"", timeout=5)
        assert await envoy.stats(counters) == before
        # Envoy would take the same again in silence; what it said that it has is not even sent.
        sent = {kind.type for p in ads.proxies() for kind in p.resources if kind.sent_version}
        assert sent == {"cluster", "listener"}
        assert refusals(ads) == []


async def test_upstreams_come_and_go_without_a_failed_call_to_one_that_stays(
    serve, store, specs, open_envoy, open_echo, eventually_true
):
    caller, echo = specs["sidecar"], specs["exposed_health"]
    declared = store.current.declarations
    others = tuple(f"other-{number}" for number in range(20))
    async with (
        serve(store) as (ads, control),
        open_echo(),
        open_envoy(echo, control),
        open_envoy(caller, control) as envoy,
        open_way_out(caller) as say,
        open_way_out(caller, "other-1") as say_other,
    ):
        is_done = asyncio.Event()

        async def call_without_end():
            count = 0
            while not is_done.is_set():
                await say(b"", timeout=5)
                count += 1
            return count

        async with asyncio.TaskGroup() as group:
            calling = group.create_task(call_without_end())
            for upstreams in (("echo", *others), ("echo",), ("echo", *others[::2]), ("echo",)):
                store.set_declarations({**declared, "caller": Declaration("caller", "agent", upstreams)})

                async def is_there(upstreams=upstreams):
                    return set(await envoy.has("cluster")) == {*upstreams, names.APP_CLUSTER}

                await eventually_true(is_there)
            is_done.set()
        assert calling.result() > 0
        assert refusals(ads) == []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say_other(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
