"""A client gets what it has asked for, when it is there and when it changes, and nothing else."""

import pytest

pytestmark = pytest.mark.requirement("xds_protocol#how-the-client-specifies-what-resources-to-return")


async def test_a_client_gets_the_resources_that_it_names_and_no_others(client, url, world, check_silence):
    world.add("a", "b", "c", "probe")
    await client.subscribe(url, "a", "c", "probe")
    answer = await client.take()
    assert (answer.url, answer.resources, answer.removed) == (url, dict.fromkeys(("a", "c", "probe"), 0), ())
    await check_silence(client, url, asked=("a", "c"))


@pytest.mark.requirement("xds_protocol#when-to-send-an-update")
async def test_a_change_of_one_resource_comes_and_nothing_comes_after_it(client, url, world, check_silence):
    world.add("a", "b", "probe")
    await client.subscribe(url, "a", "b", "probe")
    first = await client.take()
    world.update(url, "a")
    answer = await client.take()
    assert answer.resources["a"] == 1
    assert client.updated(url, ("a", "b", "probe"), ("a",)) <= answer.resources.keys()
    assert answer.nonce != first.nonce
    await check_silence(client, url, asked=("a", "b"))


@pytest.mark.requirement("xds_protocol#when-to-send-an-update")
async def test_a_change_of_what_nobody_asked_for_is_not_told(client, url, world, check_silence):
    world.add("a", "b", "probe")
    await client.subscribe(url, "probe")
    await client.take()
    world.update(url, "a", "b")
    await check_silence(client, url)


@pytest.mark.requirement("xds_protocol#ack-nack-and-resource-type-instance-version")
async def test_the_version_of_a_type_is_another_one_when_a_resource_has_changed(client, url, world):
    world.add("a")
    await client.subscribe(url, "a")
    first = await client.take()
    world.update(url, "a")
    assert (await client.take()).version != first.version


async def test_names_that_come_one_after_the_other_add_up(client, url, world, check_silence):
    world.add("a", "b", "probe")
    await client.subscribe(url, "a")
    assert (await client.take()).resources == {"a": 0}
    await client.subscribe(url, "b")
    answer = await client.take()
    assert client.updated(url, ("a", "b"), ("b",)) <= answer.resources.keys() <= {"a", "b"}
    await client.subscribe(url, "probe")
    await client.take()
    await check_silence(client, url, asked=("a", "b"))


@pytest.mark.requirement("xds_protocol#subscribing-to-resources")
async def test_what_a_client_asks_for_again_it_gets_again_although_nothing_has_changed(
    delta, url, world, check_silence
):
    """It may have forgotten."""
    world.add("a", "probe")
    await delta.subscribe(url, "a", "probe")
    await delta.take()
    await delta.subscribe(url, "a")
    answer = await delta.take()
    assert (answer.resources, answer.removed) == ({"a": 0}, ())
    await check_silence(delta, url, asked=("a",))


async def test_what_a_client_asks_for_anew_it_gets_although_it_had_it_before(client, url, world):
    world.add("a", "b")
    await client.subscribe(url, "a", "b")
    await client.take()
    await client.leave(url, "b")
    await client.subscribe(url, "b")
    assert (await client.take()).resources["b"] == 0


async def test_a_name_that_is_said_several_times_is_one_name(client, url, world, check_silence):
    world.add("a", "probe")
    field = "resource_names_subscribe" if client.protocol == "delta" else "resource_names"
    await client.send(url, **{field: ["a", "probe", "a", "a"]})
    if client.protocol != "delta":
        client.wanted[url] = {"a", "probe"}
    assert (await client.take()).resources == {"a": 0, "probe": 0}
    await check_silence(client, url, asked=("a",))


@pytest.mark.requirement("xds_protocol#resource-updates")
async def test_names_count_that_come_while_an_answer_is_on_its_way(client, url, world):
    """They carry the nonce of what came before, or none; they are said once and must not be lost."""
    world.add("a", "b")
    await client.subscribe(url, "a")
    first = await client.read()
    if client.protocol == "delta":
        await client.subscribe(url, "b")
    else:
        client.wanted[url] = {"a", "b"}
        await client.send(url, resource_names=["a", "b"])
    await client.acknowledge(first)
    assert "b" in (await client.take()).resources


@pytest.mark.requirement("xds_protocol#resource-updates")
async def test_a_nonce_that_the_server_never_gave_does_not_make_names_void(client, url, world):
    world.add("a", "b")
    await client.subscribe(url, "a")
    await client.take()
    field = "resource_names_subscribe" if client.protocol == "delta" else "resource_names"
    await client.send(url, response_nonce="never given", **{field: ["a", "b"]})
    assert "b" in (await client.read()).resources


@pytest.mark.requirement("xds_protocol#basic-protocol-overview")
async def test_a_node_that_is_said_again_is_no_harm(client, url, world):
    world.add("a", "b")
    await client.subscribe(url, "a")
    await client.take()
    client._node = "caller/caller-1"
    await client.subscribe(url, "b")
    assert "b" in (await client.take()).resources
