"""What a client has no interest in any more does not reach it."""

import pytest

pytestmark = pytest.mark.requirement("xds_protocol#unsubscribing-from-resources")


async def test_some_of_the_names(client, url, world, check_silence):
    world.add("a", "b", "probe")
    await client.subscribe(url, "a", "b", "probe")
    await client.take()
    await client.leave(url, "b")
    world.update(url, "b")
    await check_silence(client, url, asked=("a",))


async def test_one_after_the_other(delta, url, world, check_silence):
    world.add("a", "b", "probe")
    await delta.subscribe(url, "a", "b", "probe")
    await delta.take()
    await delta.leave(url, "b")
    world.update(url, "a", "b")
    assert (await delta.take()).resources == {"a": 1}
    await delta.leave(url, "a")
    world.update(url, "a", "b")
    await check_silence(delta, url)


async def test_all_names_is_not_a_wildcard(client, url, world):
    """The request looks like that for all there is, which it would be as the first of its type."""
    world.add("a", "b")
    await client.subscribe(url, "a", "b")
    await client.take()
    await client.leave(url, "a", "b")
    world.change(added=["c"], updated=[(url, "a"), (url, "b")])
    await client.fence(url)


async def test_names_that_were_never_asked_for_are_ignored(delta, url, world, check_silence):
    world.add("a", "probe")
    await delta.subscribe(url, "probe")
    await delta.take()
    await delta.unsubscribe(url, "a", "nobody", "*")
    await check_silence(delta, url)


async def test_unsubscribing_together_with_an_acknowledgement(client, url, world, check_silence):
    world.add("a", "probe")
    await client.subscribe(url, "a", "probe")
    answer = await client.read()
    if client.protocol == "delta":
        await client.send(url, response_nonce=answer.nonce, resource_names_unsubscribe=["a"])
        await client.fence(url)
    else:
        client.wanted[url] = {"probe"}
        await client.acknowledge(answer)
        if url in world.WHOLE:
            assert set((await client.take()).resources) == {"probe"}
        await client.fence(url)
    world.update(url, "a")
    await check_silence(client, url)


async def test_a_name_that_is_left_while_its_resource_is_on_the_way_stays_left(client, url, world, check_silence):
    world.add("a", "probe")
    await client.subscribe(url, "a", "probe")
    answer = await client.read()
    await client.unsubscribe(url, "a")
    await client.acknowledge(answer)
    if client.protocol != "delta" and url in world.WHOLE:
        assert set((await client.take()).resources) == {"probe"}
    await client.fence(url)
    world.update(url, "a")
    await check_silence(client, url)
