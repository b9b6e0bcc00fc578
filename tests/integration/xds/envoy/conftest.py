"""Real Envoys, the control plane that they ask, and the proxies that they are."""

import asyncio
import contextlib
import json
from pathlib import Path

import aiohttp
import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from benchmarks.ports import free_ports
from mesh.identity import open_server_credentials, write_svid_files
from mesh.model import Address, Declaration, Instance, ProxySpec, SpiffeId
from mesh.rpc import ServerSettings, open_server
from mesh.rpc.envoy_descriptors import envoy_binary
from mesh.runtime import open_background
from mesh.sidecar.bootstrap import ControlPlane, build_bootstrap
from mesh.state import MeshState, StateStore
from mesh.xds import AdsServer
from mesh.xds.descriptors import envoy_message, envoy_pool

TRUST_DOMAIN = "mesh.test"

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
        "gateway": spec(
            "gateway",
            1,
            app_socket=app("gateway"),
            edge=Address("127.0.0.1", edge),
            guard_socket=app("guard"),
            web_socket=app("web"),
        ),
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
            services={"echo": (Instance("echo", "echo-1", "127.0.0.1", specs["exposed_health"].inbound.port),)},
            declarations={
                "caller": Declaration("caller", "agent", ("echo", "nobody-yet")),
                "gateway": Declaration("gateway", "gateway", ("*",)),
                "echo": Declaration("echo", "service"),
            },
        )
    )


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


@pytest.fixture
def write_bootstrap(authority):
    """The file that an Envoy starts from, with what `change` makes of it."""

    def write(spec, control, change=lambda bootstrap: None):
        write_svid_files(Path(spec.secrets_dir), authority.svid(spec.service))
        run = Path(spec.outbound_socket).parent
        identity = SpiffeId(TRUST_DOMAIN, "default", "control-plane")
        bootstrap = build_bootstrap(spec, ControlPlane((control,), identity), admin_socket=f"{run}/admin.sock")
        change(bootstrap)
        path = run / "bootstrap.json"
        path.write_text(json.dumps(bootstrap))
        return path

    return write


@pytest.fixture
def open_envoy(write_bootstrap, eventually_true):
    """An Envoy that is live, and gone at the end."""

    @contextlib.asynccontextmanager
    async def open_envoy(spec, control, *, is_live=True):
        path = write_bootstrap(spec, control)
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


@pytest.fixture
def refusals():
    """What Envoys have refused: types and what they said."""

    def refusals(ads):
        return [
            (kind.type, kind.nack_message) for proxy in ads.proxies() for kind in proxy.resources if kind.nack_message
        ]

    return refusals


@pytest.fixture
def to_dict():
    """A built resource as its message would be written down."""

    def to_dict(resource):
        message = envoy_message(resource.type_url.rpartition("/")[2]).FromString(resource.body)
        return MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=envoy_pool())

    return to_dict
