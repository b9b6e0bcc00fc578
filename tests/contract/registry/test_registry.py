"""What every Registry does. A new implementation joins by a parameter of the fixture `registries`."""

import asyncio

import pytest

from mesh.discovery import HealthCheck, open_registration
from mesh.errors import InvalidInput, Unavailable
from mesh.model import Address

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_watch_gives_a_snapshot_at_once(registry, open_watch, wait_for):
    snapshot = await wait_for(open_watch(registry), lambda snapshot: True)
    assert snapshot.is_available
    assert snapshot.error == ""


async def test_a_new_instance_is_unhealthy_until_its_check_passes(
    registry, open_watch, wait_for, open_backend, new_instance, check_of
):
    backend = await open_backend()
    await backend.set_serving(False)
    instance = new_instance(backend.address)
    seen = []
    watch = open_watch(registry)
    await wait_for(watch, lambda snapshot: True)
    await registry.register(instance, check_of(instance))

    def is_told(snapshot):
        seen.extend(found.is_healthy for found in snapshot.services.get(instance.service, ()))
        return bool(seen)

    await wait_for(watch, is_told)
    await backend.set_serving(True)
    await wait_for(watch, lambda snapshot: is_told(snapshot) and seen[-1])
    assert seen[0] is False


async def test_every_fact_of_an_instance_comes_back(registry, open_watch, wait_for, new_instance, check_of):
    instance = new_instance(
        kind="mcp",
        version="1.2.3",
        protocol="grpc",
        capabilities=tuple(sorted(f"tool-{number:03}-with-a-long-name" for number in range(200))),
        metadata={"region": "south", "owner": "Käthe & Söhne, Köln"},
    )
    await registry.register(instance, check_of(instance))
    snapshot = await wait_for(open_watch(registry), lambda snapshot: instance.service in snapshot.services)
    (found,) = snapshot.services[instance.service]
    facts = ("service", "id", "address", "port", "kind", "version", "protocol", "capabilities", "metadata")
    assert {fact: getattr(found, fact) for fact in facts} == {fact: getattr(instance, fact) for fact in facts}


async def test_the_instances_of_a_service_are_sorted_by_id(registry, open_watch, wait_for, new_instance, check_of):
    first = new_instance()
    for letter in "cab":
        instance = new_instance(service=first.service, id=f"{first.service}-{letter}")
        await registry.register(instance, check_of(instance))
    snapshot = await wait_for(open_watch(registry), lambda snapshot: len(snapshot.services.get(first.service, ())) == 3)
    assert [found.id[-1] for found in snapshot.services[first.service]] == ["a", "b", "c"]


async def test_an_instance_that_stops_serving_turns_unhealthy_and_says_why(
    registry, open_watch, wait_for, open_backend, new_instance, check_of
):
    backend = await open_backend()
    instance = new_instance(backend.address)
    await registry.register(instance, check_of(instance))
    watch = open_watch(registry)

    def health(snapshot):
        return [found.is_healthy for found in snapshot.services.get(instance.service, ())]

    await wait_for(watch, lambda snapshot: health(snapshot) == [True])
    await backend.set_serving(False)
    snapshot = await wait_for(watch, lambda snapshot: health(snapshot) == [False])
    assert snapshot.services[instance.service][0].health_output
    await backend.set_serving(True)
    await wait_for(watch, lambda snapshot: health(snapshot) == [True])


async def test_a_deregistered_instance_is_gone(registry, open_watch, wait_for, new_instance, check_of):
    instance = new_instance()
    await registry.register(instance, check_of(instance))
    watch = open_watch(registry)
    await wait_for(watch, lambda snapshot: instance.service in snapshot.services)
    assert await registry.is_registered(instance.id)
    await registry.deregister(instance.id)
    await wait_for(watch, lambda snapshot: instance.service not in snapshot.services)
    assert not await registry.is_registered(instance.id)


async def test_to_deregister_an_unknown_instance_is_no_error(registry, new_instance):
    await registry.deregister(new_instance().id)


async def test_a_change_of_metadata_alone_reaches_the_watch_and_keeps_the_health(
    registry, open_watch, wait_for, open_backend, new_instance, check_of
):
    backend = await open_backend()
    instance = new_instance(backend.address, capabilities=("npv",))
    await registry.register(instance, check_of(instance))
    watch = open_watch(registry)

    def of(snapshot):
        return [(found.capabilities, found.is_healthy) for found in snapshot.services.get(instance.service, ())]

    await wait_for(watch, lambda snapshot: of(snapshot) == [(("npv",), True)])
    changed = new_instance(backend.address, service=instance.service, id=instance.id, capabilities=("irr", "npv"))
    await registry.register(changed, check_of(changed))
    snapshot = await wait_for(watch, lambda snapshot: of(snapshot)[0][0] == ("irr", "npv"))
    assert of(snapshot) == [(("irr", "npv"), True)]


async def test_a_slow_reader_gets_the_newest_snapshot_next(registry, open_watch, wait_for, new_instance, check_of):
    watch = open_watch(registry)
    await wait_for(watch, lambda snapshot: True)
    instances = [new_instance() for _ in range(5)]
    for instance in instances:
        await registry.register(instance, check_of(instance))
    other = open_watch(registry)
    names = {instance.service for instance in instances}
    await wait_for(other, lambda snapshot: names <= snapshot.services.keys())
    async with asyncio.timeout(10):
        assert names <= (await anext(watch)).services.keys()


async def test_a_watch_can_be_cancelled(registry, new_instance):
    watch = registry.watch()
    await anext(watch)

    async def read():
        async for _ in watch:
            pass

    task = asyncio.create_task(read())
    await asyncio.wait((task,), timeout=0.1)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_renewal_tells_whether_the_registry_has_the_instance(registry, new_instance, check_of):
    instance = new_instance()
    assert not await registry.renew(instance.id)
    await registry.register(instance, check_of(instance))
    assert await registry.renew(instance.id)
    await registry.deregister(instance.id)
    assert not await registry.renew(instance.id)


async def test_an_instance_that_has_moved_is_checked_where_it_is_now(
    registry, open_watch, wait_for, open_backend, new_instance, check_of
):
    first, second = await open_backend(), await open_backend()
    instance = new_instance(first.address)
    await registry.register(instance, check_of(instance))
    watch = open_watch(registry)

    def of(snapshot):
        return [(found.port, found.is_healthy) for found in snapshot.services.get(instance.service, ())]

    await wait_for(watch, lambda snapshot: of(snapshot) == [(first.address.port, True)])
    moved = new_instance(second.address, service=instance.service, id=instance.id)
    await registry.register(moved, check_of(moved))
    await first.set_serving(False)
    await wait_for(watch, lambda snapshot: of(snapshot) == [(second.address.port, True)])
    await second.set_serving(False)
    await wait_for(watch, lambda snapshot: of(snapshot) == [(second.address.port, False)])


async def test_a_registration_lasts_as_long_as_its_block(registry, new_instance, check_of):
    instance = new_instance()
    async with open_registration(registry, instance, check_of(instance)) as registration:
        assert registration.is_registered
        assert await registry.is_registered(instance.id)
    assert not await registry.is_registered(instance.id)


async def test_a_registration_that_the_registry_lost_comes_back(registry, open_watch, wait_for, new_instance, check_of):
    instance = new_instance()
    watch = open_watch(registry)
    async with open_registration(registry, instance, check_of(instance)):
        await wait_for(watch, lambda snapshot: instance.service in snapshot.services)
        # The watch may miss that it was away: the latest snapshot wins.
        await registry.deregister(instance.id)
        async with asyncio.timeout(10):
            while not await registry.is_registered(instance.id):
                await asyncio.sleep(0.05)
        await wait_for(watch, lambda snapshot: instance.service in snapshot.services)


async def test_an_update_of_a_registration_reaches_the_watch(registry, open_watch, wait_for, new_instance, check_of):
    instance = new_instance()
    watch = open_watch(registry)
    async with open_registration(registry, instance, check_of(instance)) as registration:
        await wait_for(watch, lambda snapshot: instance.service in snapshot.services)
        await registration.update(new_instance(service=instance.service, id=instance.id, version="2"))
        await wait_for(watch, lambda snapshot: snapshot.services[instance.service][0].version == "2")


async def test_a_name_that_is_none_is_refused(registry, new_instance, check_of):
    instance = new_instance(service="No Such Name")
    with pytest.raises(InvalidInput, match="not a service name"):
        await registry.register(instance, check_of(instance))


async def test_a_registry_that_is_away_refuses_calls_with_unavailable(unreachable, new_instance):
    instance = new_instance()
    check = HealthCheck(Address("127.0.0.1", 9), use_tls=False)
    for call in (
        unreachable.register(instance, check),
        unreachable.deregister(instance.id),
        unreachable.is_registered(instance.id),
        unreachable.renew(instance.id),
    ):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.retryable
        assert caught.value.fix


async def test_a_watch_on_a_registry_that_is_away_says_so(unreachable, open_watch):
    async with asyncio.timeout(10):
        snapshot = await anext(open_watch(unreachable))
    assert not snapshot.is_available
    assert snapshot.error
    assert snapshot.services == {}


async def test_a_registration_begins_while_the_registry_is_away(unreachable, new_instance, check_of):
    instance = new_instance()
    async with open_registration(unreachable, instance, check_of(instance)) as registration:
        assert not registration.is_registered
