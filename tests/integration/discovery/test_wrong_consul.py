"""Addresses where no Consul, or an unwilling one, answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web

from mesh.discovery import ConsulRegistry, HealthCheck, consul_client, open_registration
from mesh.discovery.consul_agent import build_agent_config
from mesh.errors import FailedPrecondition, MeshError, PermissionDenied, Unavailable
from mesh.model import Address, Instance

INSTANCE = Instance("financial", "financial-1", "127.0.0.1", 9)
CHECK = HealthCheck(Address("127.0.0.1", 9), use_tls=False)
INDEX = {"X-Consul-Index": "7"}
NODE_CHECK = {"Node": "n", "CheckID": "serfHealth", "ModifyIndex": 5, "ServiceName": "", "ServiceTags": []}
MEMBER = {"Node": "n", "CheckID": "c", "ModifyIndex": 6, "ServiceName": "financial", "ServiceTags": ["agentmesh"]}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[[Answer], Awaitable[Address]]]:
    async with AsyncExitStack() as stack:

        async def start(answer: Answer) -> Address:
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", answer)
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return Address("127.0.0.1", runner.addresses[0][1])

        yield start


def fixed(status: int, body: object, *, headers: dict[str, str] | None = None) -> Answer:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    content = text if isinstance(text, bytes) else text.encode()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=content, headers=headers)

    return answer


async def failure_of(call: Awaitable[object]) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await call
    return caught.value


async def first_error(registry: ConsulRegistry) -> str:
    watch = registry.watch()
    async with asyncio.timeout(20):
        snapshot = await anext(watch)
    await watch.aclose()
    assert not snapshot.is_available
    return snapshot.error


WRONG = {
    "a page in HTML": fixed(200, "<html><body>hello</body></html>"),
    "a page in HTML with an index": fixed(200, "<html><body>hello</body></html>", headers=INDEX),
    "not found": fixed(404, "<h1>not found</h1>"),
    "other JSON": fixed(200, {"hello": 1}, headers=INDEX),
    "a list of numbers": fixed(200, [1, 2], headers=INDEX),
    "checks without names": fixed(200, [{"ServiceName": ""}], headers=INDEX),
    "an index that is none": fixed(200, [], headers={"X-Consul-Index": "soon"}),
    "no UTF-8": fixed(200, b"[\xff]", headers=INDEX),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_not_consul_is_called_so(serve, what):
    registry = ConsulRegistry(await serve(WRONG[what]))
    error = await first_error(registry)
    assert "is not Consul" in error
    assert "CONSUL_HTTP_ADDR" in error
    assert "<" not in error
    assert len(error) < 600


async def test_registering_at_what_is_not_consul_fails_at_once(serve):
    registry = ConsulRegistry(await serve(fixed(404, "nothing here")))
    assert (await failure_of(registry.register(INSTANCE, CHECK))).reason == "REGISTRY_IS_NOT_CONSUL"
    with pytest.raises(FailedPrecondition):
        async with open_registration(registry, INSTANCE, CHECK):
            pytest.fail("It must not get here.")


async def test_a_server_that_speaks_no_http_is_not_consul():
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        assert "is not Consul" in await first_error(ConsulRegistry(address))


async def test_https_where_http_is_served_says_so(serve):
    registry = ConsulRegistry(await serve(fixed(200, [])), scheme="https")
    error = await failure_of(registry.is_registered("financial-1"))
    assert error.reason == "REGISTRY_TLS"
    assert "http://" in error.fix


async def test_http_where_https_is_served_says_so(serve):
    registry = ConsulRegistry(await serve(fixed(400, "Client sent an HTTP request to an HTTPS server.\n")))
    error = await failure_of(registry.is_registered("financial-1"))
    assert error.reason == "REGISTRY_TLS"
    assert "https://" in error.fix


async def test_a_consul_without_leader_is_unavailable_and_not_empty(serve):
    error = await failure_of(ConsulRegistry(await serve(fixed(500, "No cluster leader"))).register(INSTANCE, CHECK))
    assert isinstance(error, Unavailable)
    assert "No cluster leader" in str(error)


async def test_a_consul_that_hangs_is_unavailable_after_a_bounded_time(serve, monkeypatch):
    monkeypatch.setattr(consul_client, "REQUEST_TIMEOUT", 0.2)
    monkeypatch.setitem(consul_client.ConsulClient.ask.__kwdefaults__, "timeout", 0.2)
    released = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    registry = ConsulRegistry(await serve(hang))
    assert (await failure_of(registry.register(INSTANCE, CHECK))).reason == "REGISTRY_TIMEOUT"
    assert "does not answer in time" in await first_error(registry)
    released.set()


async def test_a_failing_consul_takes_no_service_away_and_is_asked_at_a_bounded_rate(serve, wait_for):
    requests = 0
    is_failing = False

    async def answer(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        if is_failing:
            return web.Response(status=500, text="No cluster leader")
        if request.path.startswith("/v1/health/state"):
            return web.json_response([NODE_CHECK, MEMBER], headers=INDEX)
        if request.path == "/v1/catalog/services":
            return web.json_response({"consul": []}, headers=INDEX)
        service = {"ID": "f", "Tags": ["agentmesh"], "Meta": None, "Address": "", "Port": 1}
        entry = {"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": service}
        check = {"Status": "passing", "Output": "", "Notes": "agentmesh 1"}
        return web.json_response([entry | {"Checks": [check]}], headers=INDEX)

    watch = ConsulRegistry(await serve(answer)).watch()
    before = await wait_for(watch, lambda snapshot: "financial" in snapshot.services)
    is_failing = True
    away = await wait_for(watch, lambda snapshot: not snapshot.is_available)
    assert away.services == before.services
    assert away.services["financial"][0].address == "10.0.0.1"
    requests = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await anext(watch)
    assert requests < 40
    await watch.aclose()


@asynccontextmanager
async def open_consul_with_acl(settings, folder) -> AsyncIterator[str]:
    """A real Consul that denies by default; gives the token that may do everything."""
    token = "5e0b9f5c-0000-4000-8000-000000000001"
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": token, "agent": token}}
    settings.data_dir.mkdir()
    config = folder / "acl.json"
    config.write_text(json.dumps(build_agent_config(settings) | {"acl": acl}))
    process = await asyncio.create_subprocess_exec(
        settings.binary, "agent", f"-config-file={config}", stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20), ClientSession(headers={"X-Consul-Token": token}) as session:
            while not await _has_node(session, settings.http):
                await asyncio.sleep(0.05)
        yield token
    finally:
        process.kill()
        await process.wait()


async def _has_node(session: ClientSession, address: Address) -> bool:
    try:
        async with session.get(f"http://{address}/v1/health/state/any") as response:
            return response.status == 200 and bool(await response.json())
    except OSError:
        return False


async def test_a_consul_that_denies_names_the_token_that_is_needed(new_settings, folder, wait_for):
    settings = new_settings()
    async with open_consul_with_acl(settings, folder) as token:
        for registry in (ConsulRegistry(settings.http), ConsulRegistry(settings.http, token="not-a-token")):
            error = await failure_of(registry.register(INSTANCE, CHECK))
            assert isinstance(error, PermissionDenied)
            assert "service_prefix" in error.fix
            assert "not-a-token" not in str(error)
            assert "CONSUL_HTTP_TOKEN" in await first_error(registry)

        registry = ConsulRegistry(settings.http, token=token)
        await registry.register(INSTANCE, CHECK)
        assert await registry.is_registered(INSTANCE.id)
        watch = registry.watch()
        await wait_for(watch, lambda snapshot: "financial" in snapshot.services)
        await watch.aclose()
