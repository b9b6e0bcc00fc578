import asyncio
import tempfile
from contextlib import asynccontextmanager

import grpc
import pytest

from agentmesh.gateway.v1 import catalog_service_pb2 as pb
from agentmesh.gateway.v1 import catalog_service_pb2_grpc
from mesh.rpc import ServerSettings, open_server, open_target
from services.gateway.catalog import CatalogServicer, catalog_service


@asynccontextmanager
async def serving(knowledge, **more):
    with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as folder:
        settings = ServerSettings(service="gateway", listen=f"unix:{folder}/app.sock")
        servicer = CatalogServicer(knowledge, **more)
        async with (
            open_target(settings.listen) as channel,
            open_server(settings, [catalog_service(servicer)]) as server,
        ):
            servicer.draining = server.draining
            await server.set_serving(True)
            yield catalog_service_pb2_grpc.CatalogServiceStub(channel), server


@pytest.fixture
async def catalog(world):
    async with serving(world.knowledge) as (stub, _):
        yield stub


@pytest.fixture
def as_root(world):
    return (("x-mesh-user", world.token()),)


def names(response):
    return [service.name for service in response.services]


async def next_of(stream):
    return await asyncio.wait_for(stream.read(), 5)


async def test_everybody_is_told_of_what_it_may_call_only(catalog, as_root):
    assert names(await catalog.ListServices(pb.ListServicesRequest())) == ["financial"]
    every = await catalog.ListServices(pb.ListServicesRequest(), metadata=as_root)
    assert names(every) == ["financial", "secrets", "von-neumann"]


async def test_upstreams_do_not_tell_of_services_that_are_hidden(catalog, as_root):
    shown = (await catalog.GetService(pb.GetServiceRequest(name="financial"))).service
    assert list(shown.upstreams) == ["*", "financial"]
    every = (await catalog.GetService(pb.GetServiceRequest(name="financial"), metadata=as_root)).service
    assert list(every.upstreams) == ["*", "secrets", "financial"]


async def test_addresses_inside_of_the_mesh_stay_there(catalog, world, as_root):
    shown = (await catalog.GetService(pb.GetServiceRequest(name="secrets"), metadata=as_root)).service
    (instance,) = shown.instances
    assert (instance.address, instance.port, instance.healthy) == ("", 0, True)
    assert world.knowledge.mesh.services[1].instances[0].address == "10.0.0.7"


@pytest.mark.parametrize("name", ["secrets", "no-such", "", "x" * 5000])
async def test_a_hidden_service_is_told_from_none_by_nothing(catalog, name):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await catalog.GetService(pb.GetServiceRequest(name=name))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details().startswith(f"name: There is no service {name[:80]!r} that you may call.")


async def test_services_are_listed_by_kind(catalog, as_root):
    agents = await catalog.ListServices(pb.ListServicesRequest(kind="agent"), metadata=as_root)
    assert names(agents) == ["von-neumann"]


async def test_pages_hold_each_service_once_while_services_come_and_go(catalog, world, as_root):
    first = await catalog.ListServices(pb.ListServicesRequest(page_size=2), metadata=as_root)
    world.set_services(world.service("aaa"), world.service("financial"), world.service("zzz"))
    second = await catalog.ListServices(
        pb.ListServicesRequest(page_size=2, page_token=first.next_page_token), metadata=as_root
    )
    assert names(first) == ["financial", "secrets"]
    assert names(second) == ["zzz"]
    assert second.next_page_token == ""


@pytest.mark.parametrize(
    "request_", [pb.ListServicesRequest(page_token=it) for it in ("x", "====", "Zg==\n", "é")] + [
        pb.ListServicesRequest(page_size=1001)
    ], ids=str,
)  # fmt: skip
async def test_a_bad_page_is_the_callers_mistake(catalog, request_):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await catalog.ListServices(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watch_tells_of_changes_that_the_caller_may_see(catalog, world):
    stream = catalog.WatchServices(pb.WatchServicesRequest())
    assert names(await next_of(stream)) == ["financial"]
    world.set_services(world.service("financial"), world.service("hidden"))
    assert len((await next_of(stream)).services[0].upstreams) == 0
    world.set_services(world.service("financial"))
    world.set_services(world.service("financial", version="2.0.0"))
    # That another one has gone is not told.
    assert (await next_of(stream)).services[0].instances[0].version == "2.0.0"


async def test_new_rules_change_what_a_watch_shows(catalog, world):
    stream = catalog.WatchServices(pb.WatchServicesRequest())
    assert names(await next_of(stream)) == ["financial"]
    rules = {
        "roles": {"all": {"allow": [{}]}},
        "bindings": {"guests": {"anonymous": True, "roles": ["all"]}},
    }
    world.knowledge.set_access(world.access("2", rules=rules))
    assert names(await next_of(stream)) == ["financial", "secrets", "von-neumann"]


async def test_a_watch_ends_with_the_key_that_it_was_opened_with(catalog, world, as_root):
    stream = catalog.WatchServices(pb.WatchServicesRequest(), metadata=as_root)
    assert len((await next_of(stream)).services) == 3
    world.knowledge.set_access(world.access("2", keys=["am_other"]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await next_of(stream)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_watch_ends_with_a_key_that_runs_out_while_nothing_changes(world, as_root):
    async with serving(world.knowledge, look_again=0.01) as (catalog, _):
        stream = catalog.WatchServices(pb.WatchServicesRequest(), metadata=as_root)
        assert len((await next_of(stream)).services) == 3
        world.knowledge.view.keys["am_root"].expire_time.FromSeconds(1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await next_of(stream)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_watch_ends_in_order_when_the_gateway_stops(world):
    async with serving(world.knowledge) as (catalog, server):
        stream = catalog.WatchServices(pb.WatchServicesRequest())
        await next_of(stream)
        server.draining.set()
        assert await next_of(stream) is grpc.aio.EOF
