"""What does not exist, what comes into being, and what goes."""

import pytest

pytestmark = pytest.mark.requirement("xds_protocol#knowing-when-a-requested-resource-does-not-exist")


async def test_a_delta_client_is_told_what_does_not_exist_and_told_when_it_does(
    delta, url, kinds, world, check_silence
):
    world.add("a", "probe")
    await delta.subscribe(url, "a", "nobody", "probe")
    answer = await delta.gather(lambda it: len(it.resources) + len(it.removed) == 3)
    if url == kinds["RDS"]:
        # An Envoy that is told that its routes do not exist never becomes live; it gets empty ones.
        assert (answer.resources, answer.removed) == ({"a": 0, "probe": 0, "nobody": 0}, ())
    else:
        assert (answer.resources, answer.removed) == ({"a": 0, "probe": 0}, ("nobody",))
    world.add("nobody", revision=7)
    assert (await delta.take()).resources.keys() == {"nobody"}
    await check_silence(delta, url, asked=("a", "nobody"))


async def test_a_state_of_the_world_client_gets_what_comes_into_being_later(
    state_of_the_world, url, world, check_silence
):
    client = state_of_the_world
    world.add("a", "probe")
    await client.subscribe(url, "a", "nobody", "probe")
    assert (await client.take()).resources.keys() == {"a", "probe"}
    world.add("nobody")
    assert "nobody" in (await client.take()).resources
    await check_silence(client, url, asked=("a", "nobody"))


async def test_a_client_that_asks_only_for_what_does_not_exist_gets_it_when_it_does(client, url, world, kinds):
    await client.subscribe(url, "a")
    if client.protocol == "delta" or url in (kinds["LDS"], kinds["CDS"]):
        await client.take()
    world.add("a")
    assert (await client.take()).resources == {"a": 0}


@pytest.mark.requirement("xds_protocol#deleting-resources")
async def test_a_delta_client_is_told_what_goes_and_gets_it_again_when_it_is_back(
    delta, url, kinds, world, check_silence
):
    world.add("a", "probe")
    await delta.subscribe(url, "a", "probe")
    await delta.take()
    world.remove("a")
    answer = await delta.take()
    expected = ({"a": 0}, ()) if url == kinds["RDS"] else ({}, ("a",))
    assert (answer.resources, answer.removed) == expected
    world.add("a", revision=2)
    assert (await delta.take()).resources == {"a": 2}
    await check_silence(delta, url, asked=("a",))


@pytest.mark.requirement("xds_protocol#deleting-resources")
async def test_a_state_of_the_world_client_sees_what_goes_where_responses_are_whole(
    state_of_the_world, wildcard_url, world
):
    client = state_of_the_world
    world.add("a", "probe")
    await client.subscribe(wildcard_url, "a", "probe")
    await client.take()
    world.remove("a")
    assert (await client.take()).resources.keys() == {"probe"}
    world.remove("probe")
    assert (await client.take()).resources == {}


@pytest.mark.requirement("xds_protocol#deleting-resources")
@pytest.mark.parametrize("kind", ["RDS", "EDS"])
async def test_nothing_is_said_of_endpoints_and_routes_that_go_in_state_of_the_world(
    state_of_the_world, kind, kinds, world, check_silence
):
    """There is no way to say it: what is left out of a response stays as it is."""
    client, url = state_of_the_world, kinds[kind]
    world.add("a", "probe")
    await client.subscribe(url, "a", "probe")
    await client.take()
    world.remove("a")
    await check_silence(client, url, asked=("a",))
    world.add("a", revision=1)
    assert (await client.take()).resources["a"] == 1


async def test_a_resource_that_comes_and_goes_while_an_answer_is_awaited_is_not_told_of(delta, url, world):
    world.add("a")
    await delta.subscribe(url, "a", "b")
    await delta.gather(lambda it: len(it.resources) + len(it.removed) == 2)
    world.update(url, "a")
    unanswered = await delta.read()
    world.add("b")
    world.remove("b")
    world.update(url, "a")
    await delta.acknowledge(unanswered)
    answer = await delta.take()
    assert (answer.resources, answer.removed) == ({"a": 2}, ())


@pytest.mark.requirement("xds_protocol#incremental-xds")
async def test_who_comes_back_is_told_what_went_meanwhile_and_spared_what_it_has(running, delta, url, world, kinds):
    world.add("a", "b", "gone", "probe")
    wanted = ("a", "b", "gone", "probe")
    await delta.subscribe(url, *wanted)
    versions = {}
    delta._parse, parse = (
        lambda it: versions.update({r.name: r.version for r in it.resources}) or parse(it),
        delta._parse,
    )
    await delta.take()
    delta.cancel()
    world.change(removed=["gone"], updated=[(url, "b")])
    again = running.connect(type(delta))
    await again.subscribe(url, *wanted, initial=versions)
    if url == kinds["CDS"]:
        # Listeners and routes may still lead to a cluster that is gone; they are asked for before it is removed.
        await again.subscribe(kinds["EDS"], "a", "b", "probe")
        await again.subscribe(kinds["LDS"], "probe")
        await again.subscribe(kinds["RDS"], "probe")
    seen, gone = {}, ()
    while "b" not in seen or not (gone or "gone" in seen):
        answer = await again.take()
        if answer.url == url:
            seen |= answer.resources
            gone += answer.removed
    assert "a" not in seen, "what the client has came again"
    assert seen["b"] == 1
    if url == kinds["RDS"]:
        assert seen["gone"] == 0
    else:
        assert gone == ("gone",)
