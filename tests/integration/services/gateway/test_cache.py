"""What is kept of answers, by whom it is seen, and what ends it: the door as it is served, in front of a service."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from agentmesh.control.v1 import control_pb2
from agentmesh.gateway.v1 import gateway_service_pb2
from mesh.config import MeshSettings
from mesh.config.document.edge import CacheRule, Edge
from mesh.rpc import SELECTOR, ServerSettings, open_server, open_target
from mesh.rpc.context import USER_TOKEN
from services.gateway.cache import CacheDoor, Generations, Kept, open_flights, open_upstream
from services.gateway.cache.kept import LARGEST
from services.gateway.guard.view import AccessView
from services.gateway.help_desk import HelpDesk
from services.gateway.knowledge import Knowledge
from services.gateway.storage import Circuit, Storage, open_storage
from services.meshctl.valkey import open_valkey

READ = "agentmesh.mcp.v1.McpBridgeService/ListTools"
OTHER_READ = "agentmesh.agent.v1.AgentService/GetAgentCard"
TTL = 3600
TIMEOUT = 15.0


def token_of(name: str, *roles: str, kind: str = "user", **claims: Any) -> str:
    """As a guard writes it; nobody verifies it here."""
    payload = {"sub": f"{kind}:{name}", "kind": kind, "name": name, "roles": roles, **claims}
    return f"h.{base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip('=')}.s"


ANN, BOB = token_of("ann", "reader"), token_of("bob", "reader")


class Service(grpc.GenericRpcHandler):
    """Answers any method with how often it was asked, or as `body`, `status` and `gate` say."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.body: bytes | None = None
        self.status: status_pb2.Status | None = None
        self.gate: asyncio.Event | None = None
        self.given_up = 0
        self._handler: Any = grpc.unary_unary_rpc_method_handler(self._answer)

    def service(self, handler_call_details: Any) -> Any:
        return self._handler

    async def _answer(self, request: bytes, context: Any) -> bytes:
        self.asked.append(dict(context.invocation_metadata()))
        number = len(self.asked)
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        if self.status is not None:
            trailing = (("grpc-status-details-bin", self.status.SerializeToString()),)
            await context.abort(grpc.StatusCode.NOT_FOUND, self.status.message, trailing)
        return self.body if self.body is not None else f"answer {number}".encode()


class Gateway:
    """The door, and how to call it."""

    def __init__(self, knowledge: Knowledge, kept: Kept, channel: grpc.aio.Channel, service: Service) -> None:
        self.knowledge = knowledge
        self.kept = kept
        self.service = service
        self._channel = channel

    def set_rules(self, **rules: CacheRule) -> None:
        self.knowledge.view = AccessView(edge=Edge(cache=rules))

    def set_mesh(self, *names: str, version: str = "1.0", document: str = "d1", healthy: bool = True) -> None:
        instance = control_pb2.Instance(id="i", address="127.0.0.1", port=1, version=version, healthy=healthy)
        services = [control_pb2.Service(name=name, kind="mcp", instances=[instance]) for name in names]
        self.knowledge.set_mesh(gateway_service_pb2.WatchMeshResponse(services=services, document_version=document))

    def call(
        self,
        token: str = ANN,
        request: bytes = b"request",
        *,
        service: str = "tools",
        method: str = READ,
        timeout: float = TIMEOUT,
        **headers: str,
    ) -> Any:
        metadata = [(SELECTOR, service), *((name.replace("_", "-"), value) for name, value in headers.items())]
        if token:
            metadata.append((USER_TOKEN, token))
        return self._channel.unary_unary(f"/{method}")(request, metadata=metadata, timeout=timeout)

    async def body(self, *args: Any, **kwargs: Any) -> str:
        return bytes(await self.call(*args, **kwargs)).decode()

    async def headers(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        call = self.call(*args, **kwargs)
        await call
        return dict(await call.initial_metadata())


@pytest.fixture(params=["memory", "valkey"])
async def storage(request: pytest.FixtureRequest, short_dir: Path) -> AsyncIterator[Storage]:
    async with AsyncExitStack() as stack:
        url = "memory://"
        if request.param == "valkey":
            settings = MeshSettings.from_environment({"MESH_STATE_DIR": str(short_dir)})
            url = await stack.enter_async_context(open_valkey(settings))
        yield await stack.enter_async_context(open_storage(url))


@pytest.fixture
async def gateway(short_dir: Path, storage: Storage) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        yield await open_gateway(stack, short_dir, storage, Service())


async def open_gateway(
    stack: AsyncExitStack, directory: Path, storage: Storage, service: Service, *, name: str = "app"
) -> Gateway:
    out = f"unix:{directory}/{name}.out.sock"
    behind = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    behind.add_generic_rpc_handlers((service,))
    behind.add_insecure_port(out)
    await behind.start()
    stack.push_async_callback(behind.stop, 0)
    knowledge = Knowledge()
    kept = Kept(storage.answers, Circuit("tests"))
    flights = await stack.enter_async_context(open_flights())
    upstream = await stack.enter_async_context(open_upstream(out))
    door = CacheDoor(lambda: knowledge.view, Generations(knowledge), kept, flights, upstream)
    listen = f"unix:{directory}/{name}.sock"
    settings = ServerSettings(service="gateway", listen=listen, drain_grace=0.0)
    await stack.enter_async_context(open_server(settings, [], generic_handlers=[door, HelpDesk()]))
    gateway = Gateway(knowledge, kept, await stack.enter_async_context(open_target(listen)), service)
    gateway.set_rules(reads=CacheRule(methods=[READ], ttl=timedelta(seconds=TTL)))
    gateway.set_mesh("tools", "others")
    return gateway


async def is_kept(gateway: Gateway, token: str = ANN, **how: Any) -> None:
    """Returns when an answer comes from what is kept: it is put there after it was given."""
    async with asyncio.timeout(10):
        while not (await gateway.headers(token, **how))["cache-status"].startswith("agentmesh; hit"):
            await asyncio.sleep(0.01)


async def test_the_second_answer_is_the_kept_first_one(gateway: Gateway) -> None:
    first = await gateway.headers()
    assert first["cache-status"] == "agentmesh; fwd=uri-miss; stored"
    await is_kept(gateway)
    asked = len(gateway.service.asked)
    assert await gateway.body() == f"answer {asked}"
    second = await gateway.headers()
    assert second["etag"].startswith('"') and len(second["etag"]) == 34
    assert second["cache-control"] == f"private, max-age={TTL}"
    assert second["vary"] == "authorization, x-api-key"
    assert int(second["age"]) >= 0
    assert len(gateway.service.asked) == asked


@pytest.mark.parametrize(
    "token",
    [
        BOB,
        token_of("ann", "reader", "writer"),
        token_of("ann", "reader", kind="key"),
        token_of("ann", "reader", kind="token", issuer="corp"),
        token_of("ann", "reader", login="another"),
        token_of("", kind="anonymous"),
    ],
)
async def test_nobody_gets_what_is_kept_for_somebody_else(gateway: Gateway, token: str) -> None:
    await is_kept(gateway, ANN)
    mine = await gateway.body(ANN)
    assert await gateway.body(token) != mine
    assert gateway.service.asked[-1][USER_TOKEN] == token


@pytest.mark.parametrize("how", [{"request": b"other"}, {"service": "others"}, {"method": OTHER_READ}])
async def test_another_question_has_another_answer(gateway: Gateway, how: dict[str, Any]) -> None:
    gateway.set_rules(reads=CacheRule(methods=["*"], ttl=timedelta(seconds=TTL)))
    await is_kept(gateway)
    kept = await gateway.body()
    assert await gateway.body(**how) != kept
    assert await gateway.body() == kept


async def test_a_caller_without_a_token_gets_nothing_that_is_kept(gateway: Gateway) -> None:
    for _ in range(3):
        assert (await gateway.headers(""))["cache-status"] == "agentmesh; fwd=bypass"
    assert len(gateway.service.asked) == 3


@pytest.mark.parametrize("change", [{"version": "1.1"}, {"document": "d2"}])
async def test_a_change_of_the_service_or_of_the_document_ends_what_is_kept(
    gateway: Gateway, change: dict[str, str]
) -> None:
    await is_kept(gateway)
    kept = await gateway.body()
    gateway.set_mesh("tools", "others", **change)
    assert await gateway.body() != kept


async def test_what_does_not_change_the_answer_leaves_it(gateway: Gateway) -> None:
    await is_kept(gateway)
    kept = await gateway.body()
    gateway.set_mesh("tools", "others", "another", healthy=False)
    assert await gateway.body() == kept


async def test_an_answer_ends_with_its_time(gateway: Gateway) -> None:
    gateway.set_rules(reads=CacheRule(methods=[READ], ttl=timedelta(seconds=0.2)))
    first = await gateway.body()
    async with asyncio.timeout(10):
        while await gateway.body() == first:
            await asyncio.sleep(0.02)


async def test_purging_a_service_ends_what_is_kept_of_it_and_of_no_other(gateway: Gateway) -> None:
    await is_kept(gateway)
    await is_kept(gateway, service="others")
    kept, of_others = await gateway.body(), await gateway.body(service="others")
    await gateway.kept.purge("tools")
    assert await gateway.body() != kept
    assert await gateway.body(service="others") == of_others


async def test_an_answer_that_is_on_its_way_when_its_service_is_purged_is_not_given_later(gateway: Gateway) -> None:
    gateway.service.gate = asyncio.Event()
    early = asyncio.create_task(gateway.body())
    async with asyncio.timeout(10):
        while not gateway.service.asked:
            await asyncio.sleep(0.01)
    await gateway.kept.purge("tools")
    gateway.service.gate.set()
    assert await early == "answer 1"
    assert await gateway.body() == "answer 2"


async def test_misses_at_once_are_one_call(gateway: Gateway) -> None:
    gateway.service.gate = asyncio.Event()
    calls = [gateway.call() for _ in range(20)]
    pending = [asyncio.ensure_future(call) for call in calls]
    async with asyncio.timeout(10):
        while not gateway.service.asked:
            await asyncio.sleep(0.01)
    gateway.service.gate.set()
    assert {bytes(body) for body in await asyncio.gather(*pending)} == {b"answer 1"}
    assert len(gateway.service.asked) == 1


async def test_a_call_for_several_goes_on_when_who_began_it_gives_up(gateway: Gateway) -> None:
    gateway.service.gate = asyncio.Event()
    first = gateway.call()
    async with asyncio.timeout(10):
        while not gateway.service.asked:
            await asyncio.sleep(0.01)
    second = asyncio.create_task(gateway.body())
    # A call of its own shows that the one before it has come in.
    gateway.set_rules(reads=CacheRule(methods=[READ], ttl=timedelta(seconds=TTL)))
    probe = asyncio.create_task(gateway.body(request=b"probe"))
    async with asyncio.timeout(10):
        while len(gateway.service.asked) < 2:
            await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gateway.service.gate.set()
    assert await second == "answer 1"
    assert await probe == "answer 2"


async def test_a_call_for_which_nobody_waits_any_more_is_given_up(gateway: Gateway) -> None:
    gateway.service.gate = asyncio.Event()
    call = gateway.call()
    async with asyncio.timeout(10):
        while not gateway.service.asked:
            await asyncio.sleep(0.01)
        call.cancel()
        while not gateway.service.given_up:
            await asyncio.sleep(0.01)
    gateway.service.gate = None
    assert await gateway.body() == "answer 2"


async def test_a_short_deadline_of_one_is_not_that_of_the_others(gateway: Gateway) -> None:
    gateway.service.gate = asyncio.Event()
    hasty = gateway.call(timeout=0.3)
    patient = asyncio.create_task(gateway.body())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await hasty
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gateway.service.gate.set()
    assert await patient == "answer 1"


async def test_errors_are_passed_on_as_they_are_and_not_kept(gateway: Gateway) -> None:
    status = status_pb2.Status(code=5, message="there is no such tool")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="UNKNOWN_TOOL"))
    gateway.service.status = status
    for number in (1, 2):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await gateway.call()
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert raised.value.details() == "there is no such tool"
        trailing = dict(raised.value.trailing_metadata())
        assert status_pb2.Status.FromString(trailing["grpc-status-details-bin"]) == status
        assert len(gateway.service.asked) == number
    gateway.service.status = None
    assert await gateway.body() == "answer 3"


async def test_large_answers_pass_and_are_not_kept(gateway: Gateway) -> None:
    gateway.service.body = b"x" * (LARGEST + 1)
    for number in (1, 2):
        headers = await gateway.headers()
        assert headers["cache-status"] == "agentmesh; fwd=uri-miss"
        assert len(gateway.service.asked) == number
    assert len(await gateway.body()) == LARGEST + 1


@pytest.mark.parametrize("wish", ["no-cache", "max-age=0", "Max-Age=0, No-Cache"])
async def test_who_wants_a_fresh_answer_gets_one_and_others_get_it_then(gateway: Gateway, wish: str) -> None:
    await is_kept(gateway)
    old = await gateway.body()
    headers = await gateway.headers(cache_control=wish)
    assert headers["cache-status"] == "agentmesh; fwd=request; stored"
    fresh = f"answer {len(gateway.service.asked)}"
    assert fresh != old
    async with asyncio.timeout(10):
        while await gateway.body() != fresh:
            await asyncio.sleep(0.01)


async def test_who_wants_nothing_kept_leaves_nothing_behind(gateway: Gateway) -> None:
    for number in (1, 2):
        headers = await gateway.headers(cache_control="no-store")
        assert headers["cache-status"] == "agentmesh; fwd=bypass"
        assert len(gateway.service.asked) == number


async def test_without_a_rule_calls_pass(gateway: Gateway) -> None:
    gateway.set_rules()
    for number in (1, 2):
        assert await gateway.body() == f"answer {number}"
    gateway.knowledge.view = None
    assert await gateway.body() == "answer 3"


async def test_of_several_rules_the_shortest_time_counts(gateway: Gateway) -> None:
    gateway.set_rules(
        long=CacheRule(methods=["*"], ttl=timedelta(hours=1)),
        short=CacheRule(methods=["agentmesh.mcp.v1.McpBridgeService/*"], services=["tools"], ttl=timedelta(minutes=1)),
    )
    assert (await gateway.headers())["cache-control"] == "private, max-age=60"
    assert (await gateway.headers(service="others"))["cache-control"] == "private, max-age=3600"


@pytest.mark.parametrize(
    "method",
    [
        "agentmesh.mcp.v1.McpBridgeService/CallTool",
        "agentmesh.mcp.v1.McpBridgeService/Watch",
        "agentmesh.gateway.v1.CatalogService/ListServices",
        "some.other.Service/Method",
    ],
)
async def test_what_is_no_public_read_is_not_called_for_anybody(gateway: Gateway, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await gateway.call(method=method)
    assert gateway.service.asked == []


async def test_nothing_but_who_calls_goes_on_to_the_service(gateway: Gateway) -> None:
    await gateway.body(ANN, x_api_key="secret", cookie="secret", accept_language="de", x_mesh_retry="yes")
    asked = gateway.service.asked[0]
    assert asked[USER_TOKEN] == ANN
    assert not {"x-api-key", "cookie", "accept-language", SELECTOR} & set(asked)


async def test_gateways_share_what_is_kept_in_one_valkey(short_dir: Path, valkey: Any) -> None:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_storage(valkey.url)) for _ in range(2)]
        one, other = [
            await open_gateway(stack, short_dir, store, Service(), name=f"g{number}")
            for number, store in enumerate(stores)
        ]
        await is_kept(one)
        assert await other.body() == await one.body()
        assert other.service.asked == []
        await other.kept.purge("tools")
        kept = len(one.service.asked)
        await one.body()
        assert len(one.service.asked) == kept + 1


async def test_without_its_valkey_every_call_goes_on_to_the_service(short_dir: Path, valkey: Any) -> None:
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(valkey.url))
        gateway = await open_gateway(stack, short_dir, storage, Service())
        await is_kept(gateway)
        held = await valkey.stop()
        asked = len(gateway.service.asked)
        for number in range(1, 11):
            headers = await gateway.headers()
            assert headers["cache-status"] == "agentmesh; fwd=uri-miss"
            assert len(gateway.service.asked) == asked + number
        valkey.go_on(held)
        await is_kept(gateway)
