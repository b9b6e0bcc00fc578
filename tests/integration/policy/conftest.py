"""A mesh of real Envoys with one document that each test replaces: callers, a service of two versions, a web service.

caller, gateway (edge) ──mTLS──> echo-1 (v1), echo-2 (v2), backup-1, web-1 (HTTP/1.1)
"""

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import pytest
import pytest_asyncio
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from benchmarks.ports import free_ports
from mesh.config.document import MeshDocument, Policy
from mesh.config.document.policy import merge
from mesh.identity import CertificateAuthority, Svid, open_server_credentials, write_svid_files
from mesh.identity.svid import create_key
from mesh.model import Address, Declaration, Instance, ProxySpec, SpiffeId
from mesh.rpc import ServerSettings, open_server
from mesh.rpc.envoy_descriptors import envoy_binary
from mesh.runtime import open_background
from mesh.sidecar.bootstrap import ControlPlane, build_bootstrap
from mesh.state import MeshState, StateStore
from mesh.telemetry import configure_logs
from mesh.xds import AdsServer, names
from mesh.xds.descriptors import envoy_message
from mesh.xds.reconcile import Reconciler
from mesh.xds.resources import build_resource

TRUST_DOMAIN = "mesh.test"
SAY = "/echo.v1.Echo/Say"
QUIET = {"defaults": {"outlier_detection": {"enabled": False}}}
"""What tests start from: failures made on purpose in one test must not eject an instance in the next."""


class App:
    """A gRPC application that answers any method with what it got; `behave` says how."""

    def __init__(self, name):
        self.name = name
        self.requests = []
        self.behave = None
        self.health = health.aio.HealthServicer()

    def service(self, details):
        if details.method.startswith("/grpc.health."):
            return None
        if details.method.endswith("/Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream)

        async def say(request, context):
            return await self._say(details.method, context)

        return grpc.unary_unary_rpc_method_handler(say)

    async def _say(self, method, context):
        metadata = dict(context.invocation_metadata())
        self.requests.append((method, metadata))
        if self.behave is not None:
            await self.behave(len(self.requests), context)
        return json.dumps({"app": self.name, "method": method, "metadata": metadata}).encode()

    async def _stream(self, requests, context):
        """Gives each message back."""
        async for request in requests:
            await context.write(request)

    def reset(self):
        self.requests.clear()
        self.behave = None


class WebApp:
    """An HTTP/1.1 application that tells what it got."""

    def __init__(self, name):
        self.name = name
        self.requests = []
        self.wait = 0.0

    async def answer(self, request):
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, str(request.rel_url), headers))
        await asyncio.sleep(self.wait)
        return web.json_response({"app": self.name, "path": str(request.rel_url), "headers": headers})

    def reset(self):
        self.requests.clear()
        self.wait = 0.0


class Envoy:
    """A running Envoy and its admin interface."""

    def __init__(self, spec, session):
        self.spec = spec
        self._session = session

    async def ask(self, path):
        async with self._session.get(f"http://envoy{path}") as response:
            return response.status, await response.text()

    async def is_live(self):
        with contextlib.suppress(aiohttp.ClientError, OSError):
            return (await self.ask("/ready"))[0] == 200
        return False

    async def stats(self, pattern):
        _, text = await self.ask(f"/stats?filter={pattern}")
        return {name: int(value) for name, value in (line.split(": ") for line in text.splitlines()) if value.isdigit()}

    async def has(self):
        """Type, name and version of all that came over ADS, as Envoy itself reports them."""
        lists = {
            "dynamic_active_clusters": (names.CLUSTER, "cluster"),
            "dynamic_route_configs": (names.ROUTE, "route_config"),
            "dynamic_listeners": (names.LISTENER, ""),
            "ecds_filters": (names.EXTENSION, "ecds_filter"),
        }
        _, text = await self.ask("/config_dump")
        found = set()
        for dump in json.loads(text)["configs"]:
            for listed, (kind, inner) in lists.items():
                for config in dump.get(listed, ()):
                    # What is there only because it was refused has no name.
                    if name := config.get(inner, config).get("name"):
                        found.add((kind, name, version_of(config)))
        return found

    async def hosts(self):
        """Ports that Envoy has, by cluster."""
        _, text = await self.ask("/clusters?format=json")
        return {
            status["name"]: sorted(
                host["address"].get("socket_address", {}).get("port_value", 0)
                for host in status.get("host_statuses", ())
            )
            for status in json.loads(text)["cluster_statuses"]
        }

    async def lacks(self, snapshot):
        """What it should have and has not, or the other way round."""
        kinds = (names.CLUSTER, names.ROUTE, names.LISTENER, names.EXTENSION)
        wanted = {(kind, it.name, it.version) for kind in kinds for it in snapshot.of(kind).values()}
        if wrong := await self.has() ^ wanted:
            return sorted(wrong)
        hosts = await self.hosts()
        return sorted((name, *ports) for name, ports in ports_of(snapshot).items() if hosts.get(name) != ports)


def version_of(config):
    """The version of a resource in a dump; Envoy shows an old one for a listener whose filter chains it replaced."""
    if "active_state" not in config:
        return config.get("version_info", "")
    literal = config["active_state"]["listener"]
    return build_resource(names.LISTENER, literal["name"], {k: v for k, v in literal.items() if k != "@type"}).version


def ports_of(snapshot):
    """The ports in each assignment of a snapshot."""
    message = envoy_message("envoy.config.endpoint.v3.ClusterLoadAssignment")
    return {
        name: sorted(
            endpoint.endpoint.address.socket_address.port_value
            for locality in message.FromString(resource.body).endpoints
            for endpoint in locality.lb_endpoints
        )
        for name, resource in snapshot.of(names.ENDPOINT).items()
    }


class World:
    """The mesh: its store, its Envoys, its applications, and ways to call."""

    def __init__(self, stack, directory, store, ads):
        self.stack = stack
        self.directory = directory
        self.store = store
        self.ads = ads
        self.envoys = {}
        self.apps = {}
        self.instances = {}
        self.authority = None
        self._channels = {}
        self._revision = 0
        self.http = None

    async def apply(self, document=None, *, secrets=None):
        """Make a document hold, and wait until all Envoys have it."""
        self._revision += 1
        checked = MeshDocument.model_validate(merge(QUIET, document or {}))
        policy = Policy(checked, revision=self._revision, secrets_version=self._revision, secrets=secrets or {})
        self.store.set_policy(policy)
        await self.settle()

    async def set_instances(self, changes):
        """Replace facts of instances, by id."""
        for instance_id, change in changes.items():
            self.instances[instance_id] = replace(self.instances[instance_id], **change)
        services = {}
        for instance in self.instances.values():
            services[instance.service] = (*services.get(instance.service, ()), instance)
        self.store.set_services(services)
        await self.settle()

    async def settle(self):
        """Wait until all Envoys have what they should have, and took it without complaint."""
        state, reconciler = self.store.current, Reconciler()
        wanted = {name: reconciler.sidecar_snapshot(state, envoy.spec) for name, envoy in self.envoys.items()}
        lacking = {}
        try:
            async with asyncio.timeout(8):
                for name, envoy in self.envoys.items():
                    while lack := await envoy.lacks(wanted[name]):
                        lacking = {name: lack}
                        assert self.refusals() == []
                        await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"Envoys do not take this: {self.refusals()} {lacking}")
        assert self.refusals() == []

    def refusals(self):
        return [
            (proxy.node_id, kind.type, kind.nack_message)
            for proxy in self.ads.proxies()
            for kind in proxy.resources
            if kind.held_back
        ]

    def channel(self, authority, caller="caller"):
        """An open way out of a caller's sidecar; the same for all tests."""
        key = (authority, caller)
        if key not in self._channels:
            options = [("grpc.default_authority", authority), ("grpc.enable_retries", 0)]
            target = f"unix:{self.envoys[caller].spec.outbound_socket}"
            self._channels[key] = grpc.aio.insecure_channel(target, options=options)
        return self._channels[key]

    async def say(self, authority="echo.mesh", *, method=SAY, metadata=(), caller="caller", timeout=5):
        """Call, and read what the application got."""
        call = self.channel(authority, caller).unary_unary(method)(b"", metadata=metadata, timeout=timeout)
        return json.loads(await call)

    async def code(self, *args, **kwargs):
        """The status code of a call."""
        try:
            await self.say(*args, **kwargs)
        except grpc.aio.AioRpcError as err:
            return err.code()
        return grpc.StatusCode.OK

    async def who(self, count, *args, **kwargs):
        """How many of `count` calls each application answered."""
        answers = await asyncio.gather(*(self.say(*args, **kwargs) for _ in range(count)))
        return Counter(answer["app"] for answer in answers)

    def get(self, path, *, host="web.mesh", method="GET", headers=None):
        """An HTTP/1.1 request through the caller's sidecar."""
        return self.http.request(method, f"http://web{path}", headers={"host": host, **(headers or {})})

    async def close(self):
        for channel in self._channels.values():
            await channel.close()


def svid_of(authority, service):
    key, csr = create_key()
    signed = authority.sign(csr, SpiffeId(TRUST_DOMAIN, "default", service), reason="test")
    return Svid.from_pem(signed.chain_pem, key, authority.bundle_pem)


async def start_envoy(stack, spec, control, authority):
    run = Path(spec.outbound_socket).parent
    run.mkdir(mode=0o700)
    write_svid_files(Path(spec.secrets_dir), svid_of(authority, spec.service))
    identity = SpiffeId(TRUST_DOMAIN, "default", "control-plane")
    bootstrap = build_bootstrap(spec, ControlPlane((control,), identity), admin_socket=f"{run}/admin.sock")
    (run / "bootstrap.json").write_text(json.dumps(bootstrap))
    log = stack.enter_context((run / "envoy.log").open("wb"))
    process = await asyncio.create_subprocess_exec(
        envoy_binary(),
        *("--config-path", run / "bootstrap.json", "--concurrency", "1", "--disable-hot-restart"),
        *("--log-level", "warning"),
        stdout=log,
        stderr=log,
    )

    async def end():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    stack.push_async_callback(end)
    connector = aiohttp.UnixConnector(path=str(run / "admin.sock"))
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5))
    )
    return Envoy(spec, session)


async def start_app(stack, app, path):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((app,))
    health_pb2_grpc.add_HealthServicer_to_server(app.health, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    stack.push_async_callback(server.stop, 0)
    await app.health.set("", health_pb2.HealthCheckResponse.SERVING)


async def start_web_app(stack, app, path):
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", app.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.UnixSite(runner, str(path)).start()


@pytest.fixture(autouse=True)
def _logs():
    configure_logs("test", level="error")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mesh_of_envoys(open_lenient_guard):
    directory = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    authority = CertificateAuthority.open(directory / "ca", trust_domain=TRUST_DOMAIN)
    inbound = dict(zip(("echo-1", "echo-2", "backup-1", "web-1", "edge"), free_ports(5), strict=True))
    members = {
        "echo-1": {"version": "1.0", "metadata": {"tier": "gold"}},
        "echo-2": {"version": "2.0", "metadata": {"tier": "silver"}},
        "backup-1": {},
        "web-1": {},
    }
    instances = {
        name: Instance(name.partition("-")[0], name, "127.0.0.1", inbound[name], **facts)
        for name, facts in members.items()
    }
    services = {}
    for instance in instances.values():
        services[instance.service] = (*services.get(instance.service, ()), instance)
    store = StateStore(
        MeshState(
            TRUST_DOMAIN,
            services=services,
            declarations={
                "caller": Declaration("caller", "agent", ("echo", "backup", "web")),
                "gateway": Declaration("gateway", "gateway", ("*",)),
            },
        )
    )
    store.set_policy(Policy(MeshDocument.model_validate({"services": {"web": {"protocol": "http1"}}})))

    def spec(name, service, **more):
        run = directory / name
        return ProxySpec(service, name, f"{run}/out.sock", f"{run}/secrets", **more)

    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        ads = AdsServer(store)
        tls = await stack.enter_async_context(open_server_credentials(authority, require_client_certificate=True))
        await stack.enter_async_context(open_background(ads.run()))
        settings = ServerSettings("control-plane", "127.0.0.1:0", credentials=tls.credentials, drain_grace=0.2)
        server = await stack.enter_async_context(open_server(settings, [], generic_handlers=[ads.handler]))
        control = Address("127.0.0.1", server.port)
        world = World(stack, directory, store, ads)
        world.authority = authority
        world.instances = instances
        specs = {
            "caller": spec("caller", "caller"),
            "gateway": spec(
                "gateway",
                "gateway",
                app_socket=f"{directory}/backup-1.app",
                edge=Address("127.0.0.1", inbound["edge"]),
                guard_socket=f"{directory}/guard.sock",
                web_socket=f"{directory}/web-1.app",
            ),
        }
        for name in members:
            address = Address("127.0.0.1", inbound[name])
            specs[name] = spec(name, instances[name].service, app_socket=f"{directory}/{name}.app", inbound=address)
            is_web = name == "web-1"
            world.apps[name] = WebApp(name) if is_web else App(name)
            await (start_web_app if is_web else start_app)(stack, world.apps[name], f"{directory}/{name}.app")
        await stack.enter_async_context(open_lenient_guard(specs["gateway"].guard_socket))
        for name, wanted in specs.items():
            world.envoys[name] = await start_envoy(stack, wanted, control, authority)
        async with asyncio.timeout(20):
            for envoy in world.envoys.values():
                while not await envoy.is_live():
                    await asyncio.sleep(0.02)
        connector = aiohttp.UnixConnector(path=specs["caller"].outbound_socket)
        world.http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5))
        )
        stack.push_async_callback(world.close)
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def world(mesh_of_envoys):
    """The mesh, with applications as on the first day; tests set the document that they need."""
    for app in mesh_of_envoys.apps.values():
        app.reset()
    return mesh_of_envoys


@pytest.fixture
def eventually():
    """Waits until a question is answered with yes, for at most 8 seconds."""

    async def wait(question):
        async with asyncio.timeout(8):
            while not await question():
                await asyncio.sleep(0.01)

    return wait
