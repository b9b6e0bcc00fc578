"""The mesh document of a control plane with real Envoys: two callers of a service, and operators at a socket."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import grpc
import pytest

from agentmesh.config.v1 import config_service_pb2, config_service_pb2_grpc
from agentmesh.control.v1 import control_service_pb2, control_service_pb2_grpc
from mesh.config import MeshSettings
from mesh.identity import CertificateAuthority, Svid, open_server_credentials, write_svid_files
from mesh.identity.svid import create_key
from mesh.model import Address, Declaration, Instance, ProxySpec, SpiffeId
from mesh.rpc import ServerSettings, Service, open_server, open_target
from mesh.rpc.envoy_descriptors import envoy_binary
from mesh.runtime import open_background
from mesh.sidecar.bootstrap import ControlPlane, build_bootstrap
from mesh.state import MeshState, StateStore
from mesh.telemetry import configure_logs
from mesh.xds import AdsServer
from services.control_plane.config_access import access_by_certificate, access_by_socket
from services.control_plane.config_service import ConfigParts, ConfigServicer
from services.control_plane.control_service import ControlServicer
from services.control_plane.live_document import LiveDocument

TRUST_DOMAIN = "mesh.test"
ADMIN = SpiffeId(TRUST_DOMAIN, "default", "operations")


def config_service(parts, access):
    servicer = ConfigServicer(parts, access)
    return Service(
        config_service_pb2.DESCRIPTOR.services_by_name["ConfigService"],
        lambda server: config_service_pb2_grpc.add_ConfigServiceServicer_to_server(servicer, server),
    )


class Envoy:
    """A running Envoy and what its admin interface says."""

    def __init__(self, session):
        self._session = session

    async def ask(self, path):
        async with self._session.get(f"http://envoy{path}") as response:
            return response.status, await response.text()

    async def is_live(self):
        with contextlib.suppress(aiohttp.ClientError, OSError):
            return (await self.ask("/ready"))[0] == 200
        return False

    async def has(self, text):
        """Whether its configuration has this text."""
        return text in (await self.ask("/config_dump"))[1]


class Plane:
    """A control plane's document, served to Envoys and to operators."""

    def __init__(self, directory, authority):
        self.directory = directory
        self.authority = authority
        self.layers = directory / "layers"
        self.layers.mkdir()
        (self.layers / "defaults.yaml").write_text("defaults:\n  timeout: 30s\n")
        (self.layers / "dev.yaml").write_text("")
        self.settings = MeshSettings.from_environment(
            {"MESH_STATE_DIR": str(directory / "state"), "MESH_CONFIG_DIR": str(self.layers)}
        )
        self.settings.state_dir.mkdir(mode=0o700)
        self.store = StateStore(
            MeshState(
                TRUST_DOMAIN,
                services={name: (Instance(name, f"{name}-1", "127.0.0.1", 9),) for name in ("echo", "other")},
                declarations={"caller": Declaration("caller", "agent", ("echo", "other"))},
            )
        )
        self.envoys = {}
        self.error_percent = 0.0
        self.document = self.ads = self.control = self.config = None

    @property
    def audit(self):
        """The lines of the audit."""
        return [json.loads(line) for line in (self.settings.state_dir / "audit.jsonl").read_text().splitlines()]

    async def start(self, stack):
        plane = self

        class Rates:
            def error_percent(self, node_ids, since):
                return plane.error_percent

        self.document = LiveDocument(
            self.settings,
            self.store,
            None,
            leads=lambda: True,
            known_services=lambda: self.store.current.joined,
            error_rates=Rates(),
        )
        rollout = self.document.rollout
        self.ads = AdsServer(self.store, policy_for=rollout.policy_for, on_answer=rollout.note_answer)
        await self.document.start(self.ads)
        tls = await stack.enter_async_context(open_server_credentials(self.authority, require_client_certificate=True))
        for work in (self.ads.run(), self.document.run(self.ads)):
            await stack.enter_async_context(open_background(work))
        settings = ServerSettings("control-plane", "127.0.0.1:0", credentials=tls.credentials, drain_grace=0.2)
        parts = ConfigParts(rollout, self.document.sources, self.ads, self.store, asyncio.Event())
        for_admins = config_service(parts, access_by_certificate([ADMIN]))
        server = await stack.enter_async_context(
            open_server(settings, [for_admins], generic_handlers=[self.ads.handler])
        )
        self.control = Address("127.0.0.1", server.port)
        socket = self.settings.admin_socket
        service = config_service(parts, access_by_socket(socket))
        control = ControlServicer(
            self.settings,
            authority=None,
            tokens=None,
            declarations=None,
            store=self.store,
            registry=None,
            follower=None,
            ads=self.ads,
            started=datetime.now(UTC),
            draining=server.draining,
            replicas=None,
        )
        control_service = Service(
            control_service_pb2.DESCRIPTOR.services_by_name["ControlService"],
            lambda grpc_server: control_service_pb2_grpc.add_ControlServiceServicer_to_server(control, grpc_server),
        )
        await stack.enter_async_context(
            open_server(ServerSettings("admin", f"unix:{socket}"), [service, control_service])
        )
        channel = await stack.enter_async_context(open_target(f"unix:{socket}", authority="control-plane.mesh"))
        self.config = config_service_pb2_grpc.ConfigServiceStub(channel)

    def svid(self, service):
        key, csr = create_key()
        signed = self.authority.sign(csr, SpiffeId(TRUST_DOMAIN, "default", service), reason="test")
        return Svid.from_pem(signed.chain_pem, key, self.authority.bundle_pem)

    @contextlib.asynccontextmanager
    async def open_config_as(self, service):
        """ConfigService over mutual TLS with the identity of a service."""
        svid = self.svid(service)
        credentials = grpc.ssl_channel_credentials(
            svid.trust_bundle.encode(), svid.private_key.encode(), svid.certificate_chain.encode()
        )
        async with open_target(str(self.control), credentials=credentials, authority="control-plane.mesh") as channel:
            yield config_service_pb2_grpc.ConfigServiceStub(channel)

    async def add_envoy(self, stack, name, service="caller"):
        run = self.directory / name
        run.mkdir(mode=0o700)
        spec = ProxySpec(service, name, f"{run}/out.sock", f"{run}/secrets")
        write_svid_files(Path(spec.secrets_dir), self.svid(service))
        identity = SpiffeId(TRUST_DOMAIN, "default", "control-plane")
        bootstrap = build_bootstrap(spec, ControlPlane((self.control,), identity), admin_socket=f"{run}/admin.sock")
        (run / "bootstrap.json").write_text(json.dumps(bootstrap))
        log = stack.enter_context((run / "envoy.log").open("wb"))
        process = await asyncio.create_subprocess_exec(
            envoy_binary(),
            *("--config-path", run / "bootstrap.json", "--concurrency", "1", "--disable-hot-restart"),
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
        self.envoys[name] = Envoy(session)

    async def apply(self, text, **more):
        request = config_service_pb2.ApplyDocumentRequest(document=text, source="mine.yaml", **more)
        return await self.config.ApplyDocument(request, timeout=20)

    async def history(self):
        answer = await self.config.ListRevisions(config_service_pb2.ListRevisionsRequest(), timeout=5)
        return list(answer.revisions)

    async def all_have(self, text):
        return all([await envoy.has(text) for envoy in self.envoys.values()])

    async def none_has(self, text):
        return not any([await envoy.has(text) for envoy in self.envoys.values()])


@pytest.fixture
def eventually():
    """Waits until a question is answered with yes, for at most 8 seconds."""

    async def wait(question, seconds=8):
        async with asyncio.timeout(seconds):
            while not await question():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
async def plane(short_dir, eventually):
    """A control plane with two live Envoys of `caller`, both with the first revision."""
    configure_logs("test", level="critical")
    found = Plane(short_dir, CertificateAuthority.open(short_dir / "ca", trust_domain=TRUST_DOMAIN))
    async with contextlib.AsyncExitStack() as stack:
        await found.start(stack)
        for number in (1, 2):
            await found.add_envoy(stack, f"caller-{number}")
        for envoy in found.envoys.values():
            await eventually(envoy.is_live)

        async def have_all():
            return len(found.ads.proxies()) == 2 and await found.all_have('"outbound"')

        await eventually(have_all)
        yield found
