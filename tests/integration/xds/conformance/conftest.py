"""A running AdsServer whose resources a test sets one by one, and clients that say exactly what a test tells them to.

Scenarios are those of the published conformance harness (https://github.com/ii/xds-test-harness) in our own words, and
more. `requirement` names the clause of https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol by its anchor.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass, field, replace

import grpc
import pytest

from mesh.model import Declaration, Instance, SpiffeId
from mesh.rpc import ServerSettings, open_server, open_target
from mesh.state import MeshState, StateStore
from mesh.xds import AdsServer, names, outline, server
from mesh.xds.descriptors import envoy_message

TRUST_DOMAIN = "mesh.test"
CALLER = "caller"
_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
_DISCOVERY = "envoy.service.discovery.v3."
_FIRST_PORT = 20_000
_FENCE = "type.googleapis.com/test.Fence"

LDS, RDS, CDS, EDS = names.LISTENER, names.ROUTE, names.CLUSTER, names.ENDPOINT
KINDS = {"LDS": LDS, "RDS": RDS, "CDS": CDS, "EDS": EDS}
WHOLE = (LDS, CDS)
"""Types whose state-of-the-world responses hold all that the client has asked for."""


def identity_in_metadata(context):
    """Stands for the certificate: mutual TLS is tested by itself."""
    return SpiffeId(TRUST_DOMAIN, "default", dict(context.invocation_metadata())["who"])


def _revision_of(url, message):
    """The revision that a test has given to a resource; 0 for one that is as it was made."""
    if url == LDS:
        return int(message.stat_prefix or 0)
    if url == RDS:
        return message.max_direct_response_body_size_bytes.value
    if url == CDS:
        return int(message.alt_stat_name or 0)
    found = [e.endpoint.address.socket_address.port_value for it in message.endpoints for e in it.lb_endpoints]
    return found[0] - _FIRST_PORT if found else None


def _revise(url, message, revision):
    if url == LDS:
        message.stat_prefix = str(revision)
    elif url == RDS:
        message.max_direct_response_body_size_bytes.value = revision
    else:
        message.alt_stat_name = str(revision)


class World:
    """What the caller should have: for each name a listener, routes, a cluster and endpoints, with revisions."""

    URLS = tuple(KINDS.values())
    WHOLE = WHOLE

    def __init__(self):
        declarations = {CALLER: Declaration(CALLER, "service")}
        self.store = StateStore(MeshState(TRUST_DOMAIN, declarations=declarations))
        self._revisions = {}
        self._changes = 0

    @property
    def names(self):
        return set(self._revisions)

    def add(self, *added, revision=0):
        """Make names exist, in all types."""
        for name in added:
            self._revisions[name] = dict.fromkeys(self.URLS, revision)
        self._publish()

    def remove(self, *removed):
        for name in removed:
            del self._revisions[name]
        self._publish()

    def update(self, url, *updated):
        """Give resources of one type their next revision, in one change of the mesh."""
        for name in updated:
            self._revisions[name][url] += 1
        self._publish()

    def change(self, *, added=(), removed=(), updated=()):
        """Several changes at one moment; `updated` are pairs of type and name."""
        for name in removed:
            del self._revisions[name]
        for name in added:
            self._revisions[name] = dict.fromkeys(self.URLS, 0)
        for url, name in updated:
            self._revisions[name][url] += 1
        self._publish()

    def has(self, url, asked=None):
        """Names and revisions of a type: all of them, or those that are `asked` for."""
        found = {name: of_type[url] for name, of_type in self._revisions.items()}
        if url == LDS:
            # The listener of a name is there under its authority, too.
            found |= {names.authority_of(name): revision for name, revision in found.items()}
        return found if asked is None else {name: found[name] for name in asked if name in found}

    def _publish(self):
        # Something that no resource holds changes for each name and for the caller: all that it has is built anew.
        self._changes += 1
        kind = ("service", "agent")[self._changes % 2]
        services = {
            name: (Instance(name, f"{name}-1", "127.0.0.1", _FIRST_PORT + of_type[EDS], version=f"{self._changes}"),)
            for name, of_type in self._revisions.items()
        }
        self.store.set_declarations({CALLER: Declaration(CALLER, kind, tuple(sorted(services)))})
        self.store.set_services(services)

    def revised(self, build):
        """A builder of resources that gives them the revision that they have in this world."""

        def build_revised(*facts, **more):
            made = build(*facts, **more)
            revision = self._revisions.get(made.name.removesuffix(".mesh"), {}).get(made.type_url, 0)
            if not revision:
                return made
            message = envoy_message(made.type_url.rpartition("/")[2]).FromString(made.body)
            _revise(made.type_url, message, revision)
            body = message.SerializeToString(deterministic=True)
            return replace(made, version=f"{made.version}-{revision}", body=body)

        return build_revised


@contextlib.contextmanager
def _made_world():
    made = World()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("build_api_listener", "build_client_routes", "build_client_cluster"):
            patch.setattr(outline, name, made.revised(getattr(outline, name)))
        # A scenario knows by a further exchange that nothing more comes; changes in quick succession must not wait.
        patch.setattr(server, "SHORTEST_GAP", 0.0)
        patch.setattr(server, "LONGEST_GAP", 0.0)
        yield made


@pytest.fixture
def world():
    with _made_world() as made:
        yield made


@pytest.fixture
def make_world():
    return _made_world


@dataclass(frozen=True)
class Answer:
    """A response: revisions by name, and the names that are gone."""

    url: str
    nonce: str
    version: str
    resources: dict[str, int | None]
    removed: tuple[str, ...] = ()


class Client:
    """One stream. Nothing is said that a test does not say."""

    protocol = ""
    method = ""
    request = response = ""

    def __init__(self, channel, *, node=f"{CALLER}/{CALLER}-1", who=CALLER):
        self.call = channel.stream_stream(
            _METHOD + self.method,
            request_serializer=lambda it: it if isinstance(it, bytes) else it.SerializeToString(),
            response_deserializer=envoy_message(_DISCOVERY + self.response).FromString,
        )(metadata=[("who", who)])
        self._node = node
        self._fences = itertools.count(1)
        self.nonces = Counter()

    async def send(self, url, **fields):
        """Send a request; the node is in the first one only."""
        error = fields.pop("error", "")
        request = envoy_message(_DISCOVERY + self.request)(type_url=url, **fields)
        if self._node:
            request.node.id = self._node
            request.node.user_agent_name = "gRPC C-core test"
            self._node = ""
        if error:
            request.error_detail.message = error
            request.error_detail.code = 3
        await self.call.write(request)

    async def read(self):
        """The next response, which must come within seconds and be a proper one."""
        async with asyncio.timeout(10):
            response = await self.call.read()
        assert response is not grpc.aio.EOF, "the server has ended the stream"
        answer = self._parse(response)
        assert answer.nonce, "a response has a nonce"
        self.nonces[answer.nonce] += 1
        assert self.nonces[answer.nonce] == 1, "a nonce is used once on a stream"
        return answer

    def _parse(self, response):
        raise NotImplementedError

    async def acknowledge(self, answer):
        raise NotImplementedError

    async def leave(self, url, *unwanted):
        """Unsubscribe, and return when the server has read it."""
        await self.unsubscribe(url, *unwanted)
        if self.protocol != "delta" and url in WHOLE and self.wanted[url]:
            # What is left, and nothing that was left.
            assert (await self.take()).resources.keys() <= self.wanted[url]
        await self.fence(url)

    async def fence(self, url):
        """Return when the server has read all that was said before; nothing else may come meanwhile."""

        def refuse(answer):
            raise AssertionError(f"something came that nobody needs: {answer}")

        await self.fence_among((url,), refuse)

    async def fence_among(self, urls, hear):
        """Return when the server has read all that was said before of some types; `hear` gets what comes meanwhile."""
        url, name = await self._ask_for_fence(urls)
        while (answer := await self.read()).url != url:
            hear(answer)
        assert (answer.resources, answer.removed) == ({}, (name,) if self.protocol == "delta" else ())
        await self.acknowledge(answer)

    async def _ask_for_fence(self, urls):
        raise NotImplementedError

    async def take(self):
        """Read a response and acknowledge it."""
        answer = await self.read()
        await self.acknowledge(answer)
        return answer

    async def gather(self, is_all):
        """Take responses of one type until they hold all together: one or several, that is up to the server."""
        found = await self.take()
        while not is_all(found):
            more = await self.take()
            assert more.url == found.url
            assert not found.resources.keys() & more.resources.keys(), "a resource came twice"
            found = replace(more, resources=found.resources | more.resources, removed=found.removed + more.removed)
        return found

    def cancel(self):
        self.call.cancel()


def _revision(url, packed):
    message = envoy_message(packed.type_url.rpartition("/")[2]).FromString(packed.value)
    assert packed.type_url == url, "resources are of the type that the response is of"
    name = message.cluster_name if url == EDS else message.name
    return name, _revision_of(url, message)


class DeltaClient(Client):
    protocol = "delta"
    method = "DeltaAggregatedResources"
    request, response = "DeltaDiscoveryRequest", "DeltaDiscoveryResponse"

    def _parse(self, response):
        found = [_revision(response.type_url, it.resource) for it in response.resources]
        assert [name for name, _ in found] == [it.name for it in response.resources]
        counts = Counter([it.name for it in response.resources] + list(response.removed_resources))
        assert not [name for name, count in counts.items() if count > 1], "a name is in a response once"
        return Answer(
            response.type_url,
            response.nonce,
            response.system_version_info,
            dict(found),
            tuple(sorted(response.removed_resources)),
        )

    async def subscribe(self, url, *wanted, initial=None):
        await self.send(url, resource_names_subscribe=wanted, initial_resource_versions=initial or {})

    async def unsubscribe(self, url, *unwanted):
        await self.send(url, resource_names_unsubscribe=unwanted)

    async def acknowledge(self, answer):
        await self.send(answer.url, response_nonce=answer.nonce)

    async def refuse(self, answer, error):
        await self.send(answer.url, response_nonce=answer.nonce, error=error)

    async def _ask_for_fence(self, urls):
        name = f"fence-{next(self._fences)}"
        await self.subscribe(_FENCE, name)
        return _FENCE, name

    def updated(self, url, asked, changed):
        """What a response to a change of `changed` must hold when the client has asked for `asked`."""
        return set(changed)


class StateClient(Client):
    protocol = "state-of-the-world"
    method = "StreamAggregatedResources"
    request, response = "DiscoveryRequest", "DiscoveryResponse"

    def __init__(self, channel, **more):
        super().__init__(channel, **more)
        self.wanted = {}
        self.newest = {}
        self.good = {}

    def _parse(self, response):
        found = [_revision(response.type_url, packed) for packed in response.resources]
        assert len(dict(found)) == len(found), "a name is in a response once"
        answer = Answer(response.type_url, response.nonce, response.version_info, dict(found))
        assert answer.version, "a response has a version"
        self.newest[answer.url] = answer.nonce
        return answer

    async def subscribe(self, url, *wanted):
        """Ask for more names; with none and none before, for all there is."""
        self.wanted[url] = self.wanted.get(url, set()) | set(wanted)
        await self._say(url)

    async def unsubscribe(self, url, *unwanted):
        self.wanted[url] = self.wanted.get(url, set()) - set(unwanted)
        await self._say(url)

    async def _say(self, url, **fields):
        said = {"response_nonce": self.newest.get(url, ""), "version_info": self.good.get(url, "")} | fields
        await self.send(url, resource_names=sorted(self.wanted.get(url, ())), **said)

    async def acknowledge(self, answer):
        self.good[answer.url] = answer.version
        await self._say(answer.url, response_nonce=answer.nonce)

    async def refuse(self, answer, error):
        await self._say(answer.url, response_nonce=answer.nonce, error=error)

    async def _ask_for_fence(self, urls):
        # Of a type whose responses are whole it is told, too, that there is nothing.
        other = next(it for it in WHOLE if it not in urls)
        name = f"fence-{next(self._fences)}"
        self.wanted[other] = set()
        await self.subscribe(other, name)
        return other, name

    def updated(self, url, asked, changed):
        return set(asked) if url in WHOLE else set(changed)


@dataclass
class Running:
    """The server, and how clients get to it."""

    ads: AdsServer
    channel: grpc.aio.Channel
    port: int
    clients: list[Client] = field(default_factory=list)

    def connect(self, kind, **more):
        self.clients.append(kind(self.channel, **more))
        return self.clients[-1]

    async def settled(self, url):
        """Wait until the server has taken the answers to all that it has sent of a type."""
        short = names.SHORT_NAMES[url]

        def is_settled():
            found = [it for proxy in self.ads.proxies() for it in proxy.resources if it.type == short]
            return all(it.sent_version == it.acked_version for it in found)

        async with asyncio.timeout(10):
            while not is_settled():
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def _open_running(store):
    ads = AdsServer(store, identity_of=identity_in_metadata)
    settings = ServerSettings("control-plane", "127.0.0.1:0", max_concurrent=1000, drain_grace=0.2)
    async with open_server(settings, [], generic_handlers=[ads.handler]) as server:
        following = asyncio.create_task(ads.run())
        try:
            async with open_target(f"127.0.0.1:{server.port}") as channel:
                running = Running(ads, channel, server.port)
                yield running
                for client in running.clients:
                    client.cancel()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@pytest.fixture
def open_running():
    return _open_running


@pytest.fixture
def protocols():
    return {"delta": DeltaClient, "sotw": StateClient}


@pytest.fixture
async def running(world):
    async with _open_running(world.store) as opened:
        yield opened


@pytest.fixture
def kinds():
    return KINDS


@pytest.fixture
def delta(running):
    return running.connect(DeltaClient)


@pytest.fixture
def state_of_the_world(running):
    return running.connect(StateClient)


@pytest.fixture(params=[DeltaClient, StateClient], ids=["delta", "sotw"])
def client(request, running):
    return running.connect(request.param)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def url(request):
    return request.param


@pytest.fixture(params=WHOLE, ids=["LDS", "CDS"])
def wildcard_url(request):
    return request.param


@pytest.fixture
def check_silence(running, world):
    """Shows that the server has nothing to say of a type: the next thing it says is about something new."""

    async def check(client, url, *, probe="probe", asked=()):
        """`probe` is a resource that the client has asked for and that exists."""
        # Twice: what answers an acknowledgement that needs none comes after the first.
        for _ in range(2):
            await running.settled(url)
            world.update(url, probe)
            answer = await client.take()
            assert answer.url == url
            assert answer.resources[probe] == world.has(url)[probe], "something came that nobody needs"
            expected = client.updated(url, {*asked, probe}, {probe})
            assert expected <= set(answer.resources) <= {*asked, probe}
            if client.protocol == "delta":
                assert (set(answer.resources), answer.removed) == (expected, ()), "more came than had changed"

    return check
