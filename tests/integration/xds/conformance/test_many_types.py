"""Types on one stream are independent of one another, and come in an order that breaks nothing."""

import pytest

pytestmark = pytest.mark.requirement("xds_protocol#aggregated-discovery-service")


async def both(client, one, other, world, check_silence):
    world.add("a", "probe")
    for url in (one, other):
        await client.subscribe(url, "a", "probe")
        answer = await client.take()
        assert (answer.url, answer.resources) == (url, {"a": 0, "probe": 0})
    world.update(one, "a")
    answer = await client.take()
    assert (answer.url, answer.resources["a"]) == (one, 1)
    await check_silence(client, one, asked=("a",))
    await check_silence(client, other, asked=("a",))


@pytest.mark.parametrize(("one", "other"), [("RDS", "EDS"), ("LDS", "RDS"), ("EDS", "LDS")])
async def test_two_types_on_one_stream(client, world, kinds, one, other, check_silence):
    await both(client, kinds[one], kinds[other], world, check_silence)


@pytest.mark.parametrize("other", ["LDS", "EDS", "RDS"])
async def test_clusters_and_another_type_on_one_stream(state_of_the_world, world, kinds, other, check_silence):
    """In delta clusters go together with their endpoints, and before listeners and routes: see below."""
    await both(state_of_the_world, kinds["CDS"], kinds[other], world, check_silence)


async def test_a_type_whose_answer_is_awaited_holds_up_no_other(client, world, kinds):
    world.add("a")
    await client.subscribe(kinds["EDS"], "a")
    unanswered = await client.read()
    await client.subscribe(kinds["RDS"], "a")
    world.change(updated=[(url, "a") for url in kinds.values()])
    seen = {}
    while seen.get(kinds["RDS"]) != 1:
        answer = await client.take()
        assert answer.url == kinds["RDS"], "there is no second response before the first has been answered"
        seen[answer.url] = answer.resources["a"]
    await client.acknowledge(unanswered)
    assert (await client.take()).resources == {"a": 1}


async def test_a_refusal_in_one_type_is_none_in_another(client, world, kinds):
    """Nonces of two types are different ones, and a refusal is of its own type."""
    world.add("a")
    for kind in ("EDS", "RDS"):
        await client.subscribe(kinds[kind], "a")
        await client.take()
    world.update(kinds["EDS"], "a")
    endpoints = await client.read()
    await client.refuse(endpoints, "a is bad")
    world.update(kinds["RDS"], "a")
    answer = await client.take()
    assert (answer.url, answer.resources) == (kinds["RDS"], {"a": 1})


@pytest.mark.requirement("xds_protocol#eventual-consistency-considerations")
async def test_a_new_name_comes_as_a_cluster_first_and_as_a_route_last(delta, world, kinds):
    world.add("a")
    for kind in ("CDS", "EDS", "LDS", "RDS"):
        await delta.subscribe(kinds[kind], "a", "b")
        await delta.gather(lambda it: len(it.resources) + len(it.removed) == 2)
    world.add("b")
    order = [(await delta.take()).url for _ in range(4)]
    assert order == [kinds[kind] for kind in ("CDS", "EDS", "LDS", "RDS")]


@pytest.mark.requirement("xds_protocol#eventual-consistency-considerations")
async def test_a_name_that_goes_leaves_the_routes_before_the_clusters(delta, world, kinds):
    world.add("a", "b")
    for kind in ("CDS", "EDS", "LDS", "RDS"):
        await delta.subscribe(kinds[kind], "a", "b")
        await delta.take()
    world.remove("b")
    order = [(await delta.take()).url for _ in range(4)]
    assert set(order[:2]) == {kinds["LDS"], kinds["RDS"]}
    assert order[2:] == [kinds["CDS"], kinds["EDS"]]


@pytest.mark.requirement("xds_protocol#eventual-consistency-considerations")
async def test_a_changed_cluster_is_followed_by_its_endpoints_although_they_are_the_same(delta, world, kinds):
    """An Envoy warms a changed cluster until its endpoints come again, and does not ask for them."""
    world.add("a")
    for kind in ("CDS", "EDS"):
        await delta.subscribe(kinds[kind], "a")
        await delta.take()
    world.update(kinds["CDS"], "a")
    assert [(await delta.take()).url for _ in range(2)] == [kinds["CDS"], kinds["EDS"]]
