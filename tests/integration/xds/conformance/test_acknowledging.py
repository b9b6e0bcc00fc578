"""A response is taken or refused as a whole, by its nonce; neither is answered."""

import pytest

pytestmark = pytest.mark.requirement("xds_protocol#ack-and-nack-semantics-summary")


def status_of(running, url, kinds):
    short = {"LDS": "listener", "RDS": "route", "CDS": "cluster", "EDS": "endpoint"}
    wanted = next(short[kind] for kind, of_kind in kinds.items() if of_kind == url)
    return next(it for proxy in running.ads.proxies() for it in proxy.resources if it.type == wanted)


async def test_an_acknowledgement_is_recorded_and_not_answered(client, url, world, running, kinds, check_silence):
    world.add("a", "probe")
    await client.subscribe(url, "a", "probe")
    answer = await client.take()
    await running.settled(url)
    assert status_of(running, url, kinds).acked_version == answer.version
    await check_silence(client, url, asked=("a",))


async def test_a_refusal_is_recorded_and_not_answered_with_the_same(client, url, world, running, kinds, eventually):
    world.add("a")
    await client.subscribe(url, "a")
    await client.take()
    world.update(url, "a")
    refused = await client.read()
    await client.refuse(refused, "a: it is not to my taste")
    await eventually(lambda: status_of(running, url, kinds).nack_message)
    status = status_of(running, url, kinds)
    assert (status.nack_message, status.held_back) == ("a: it is not to my taste", ("a",))
    assert status.acked_version != refused.version
    # What comes next is a version that was not refused.
    world.update(url, "a")
    mended = await client.take()
    assert mended.resources == {"a": 2}
    assert mended.version != refused.version
    await running.settled(url)
    assert status_of(running, url, kinds).held_back == ()


async def test_a_refused_resource_holds_up_no_other(client, url, world):
    world.add("a", "b")
    await client.subscribe(url, "a", "b")
    await client.take()
    world.update(url, "a")
    await client.refuse(await client.read(), "a is bad")
    world.update(url, "b")
    answer = await client.take()
    assert answer.resources["b"] == 1
    assert answer.resources.get("a", 0) == 0, "what was refused came again"


async def test_an_acknowledgement_of_an_older_response_acknowledges_nothing(client, url, world, running, kinds):
    world.add("a")
    await client.subscribe(url, "a")
    first = await client.take()
    await running.settled(url)
    world.update(url, "a")
    second = await client.read()
    await client.acknowledge(first)
    # Until the second one is acknowledged there is no third, whatever happens.
    world.update(url, "a")
    world.update(url, "a")
    assert status_of(running, url, kinds).acked_version == first.version
    await client.acknowledge(second)
    assert (await client.take()).resources == {"a": 3}


async def test_a_refusal_of_an_older_response_refuses_nothing(client, url, world, running, kinds):
    world.add("a")
    await client.subscribe(url, "a")
    first = await client.take()
    world.update(url, "a")
    second = await client.read()
    await client.refuse(first, "a is bad")
    await client.acknowledge(second)
    await running.settled(url)
    assert status_of(running, url, kinds).nack_message == ""
    world.update(url, "a")
    assert (await client.take()).resources == {"a": 2}


async def test_an_acknowledgement_that_comes_twice_counts_once(client, url, world, check_silence):
    world.add("probe")
    await client.subscribe(url, "probe")
    answer = await client.take()
    await client.acknowledge(answer)
    await check_silence(client, url)


async def test_changes_while_an_answer_is_awaited_come_as_one(client, url, world, running):
    """A slow client gets the newest state, not each one."""
    world.add("a")
    await client.subscribe(url, "a")
    first = await client.read()
    for _ in range(5):
        world.update(url, "a")
    await client.acknowledge(first)
    assert (await client.take()).resources == {"a": 5}


@pytest.mark.requirement("xds_protocol#basic-protocol-overview")
async def test_a_nonce_of_an_earlier_stream_means_nothing_on_a_new_one(running, client, url, world, check_silence):
    world.add("probe")
    await client.subscribe(url, "probe")
    await client.take()
    client.cancel()
    again = running.connect(type(client))
    await again.subscribe(url, "probe")
    answer = await again.read()
    await again.acknowledge(answer)
    await check_silence(again, url)
