"""Listeners and clusters may be asked for without names."""

import pytest

pytestmark = pytest.mark.requirement("xds_protocol#how-the-client-specifies-what-resources-to-return")


@pytest.mark.parametrize("said", [(), ("*",)], ids=["without names", "by a star"])
async def test_a_client_gets_all_there_is(client, wildcard_url, world, said):
    world.add("a", "probe")
    await client.subscribe(wildcard_url, *said)
    assert (await client.take()).resources == world.has(wildcard_url)
    await client_hears_of_probe(client, wildcard_url, world)


async def client_hears_of_probe(client, url, world):
    """The next response is about a change that is made now; nothing else was due."""
    world.update(url, "probe")
    answer = await client.take()
    changed = {name for name, revision in world.has(url).items() if revision}
    assert {name for name in answer.resources if answer.resources[name]} == changed
    assert set(answer.resources) == (changed if client.protocol == "delta" else set(world.has(url)))


async def test_nothing_is_an_answer_too(client, wildcard_url, world):
    """An Envoy that is not told that there is nothing never becomes live."""
    await client.subscribe(wildcard_url)
    answer = await client.take()
    assert (answer.url, answer.resources, answer.removed) == (wildcard_url, {}, ())


async def test_what_comes_into_being_is_told(client, wildcard_url, world):
    world.add("a", "probe")
    await client.subscribe(wildcard_url)
    await client.take()
    world.add("b")
    answer = await client.take()
    assert "b" in answer.resources
    if client.protocol == "delta":
        assert set(answer.resources) == set(world.has(wildcard_url, ("b", "b.mesh")))
    else:
        assert answer.resources == world.has(wildcard_url)
    await client_hears_of_probe(client, wildcard_url, world)


@pytest.mark.requirement("xds_protocol#deleting-resources")
async def test_what_goes_is_told(client, wildcard_url, world):
    world.add("a", "probe")
    await client.subscribe(wildcard_url)
    gone = set((await client.take()).resources)
    world.remove("a")
    answer = await client.take()
    gone -= set(world.has(wildcard_url))
    if client.protocol == "delta":
        assert (answer.resources, set(answer.removed)) == ({}, gone)
    else:
        assert answer.resources == world.has(wildcard_url)
    await client_hears_of_probe(client, wildcard_url, world)


async def test_a_name_beside_the_star_is_one_of_all(client, wildcard_url, world):
    world.add("a", "probe")
    await client.subscribe(wildcard_url, "*", "a")
    assert (await client.take()).resources == world.has(wildcard_url)
    await client_hears_of_probe(client, wildcard_url, world)


async def test_who_leaves_the_star_keeps_the_names_that_were_asked_for(client, wildcard_url, world, check_silence):
    world.add("a", "b", "probe")
    await client.subscribe(wildcard_url, "*", "a", "probe")
    await client.take()
    await client.leave(wildcard_url, "*")
    world.update(wildcard_url, "b")
    await check_silence(client, wildcard_url, asked=("a",))


async def test_who_names_something_after_all_of_it_in_state_of_the_world_wants_that_only(
    state_of_the_world, wildcard_url, world, check_silence
):
    """The four requests of the specification's own example."""
    client = state_of_the_world
    world.add("a", "probe")
    await client.subscribe(wildcard_url)
    assert (await client.take()).resources == world.has(wildcard_url)
    await client.subscribe(wildcard_url, "*", "probe")
    assert (await client.take()).resources == world.has(wildcard_url)
    await client.leave(wildcard_url, "*")
    await check_silence(client, wildcard_url)
    await client.leave(wildcard_url, "probe")
    world.update(wildcard_url, "a", "probe")
    await client.fence(wildcard_url)


async def test_who_names_something_after_all_of_it_in_delta_wants_both(delta, wildcard_url, world):
    world.add("a", "probe")
    await delta.subscribe(wildcard_url)
    await delta.take()
    await delta.fence(wildcard_url)
    await delta.subscribe(wildcard_url, "a")
    assert set((await delta.take()).resources) == {"a"}
    await client_hears_of_probe(delta, wildcard_url, world)


@pytest.mark.requirement("xds_protocol#unsubscribing-from-resources")
async def test_who_leaves_a_name_but_not_the_star_is_told_whether_to_keep_it(delta, wildcard_url, world):
    """The client does not know whether the name is one of all that there is."""
    world.add("a", "probe")
    await delta.subscribe(wildcard_url, "*", "a", "nobody")
    first = await delta.gather(lambda it: it.removed)
    assert (first.resources, first.removed) == (world.has(wildcard_url), ("nobody",))
    await delta.unsubscribe(wildcard_url, "a", "nobody")
    answer = await delta.gather(lambda it: it.removed)
    assert (answer.resources, answer.removed) == ({"a": 0}, ("nobody",))
    await client_hears_of_probe(delta, wildcard_url, world)


async def test_endpoints_and_routes_cannot_be_asked_for_without_names(client, kinds, world):
    world.add("a")
    for url in (kinds["RDS"], kinds["EDS"]):
        await client.subscribe(url)
    await client.subscribe(kinds["CDS"], "a")
    assert (await client.take()).url == kinds["CDS"]
    world.change(updated=[(url, "a") for url in kinds.values()])
    assert (await client.take()).url == kinds["CDS"]
