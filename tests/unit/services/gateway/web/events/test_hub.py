"""One order of events, bounded readers, and going on where one was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Unavailable
from services.gateway.web.events import Event, EventHub, Notice, Wanted
from services.gateway.web.events.event import Ending
from services.gateway.web.events.hub import KEPT, MOST_OF_ONE, MOST_READERS
from services.gateway.web.events.subscription import QUEUE

ALL = Wanted()


async def take(subscription):
    """All that waits."""
    found = []
    while True:
        try:
            item = await subscription.next(0)
        except TimeoutError:
            return found
        if item is None:
            return found
        found.append(item)


def events(items):
    return [item for item in items if isinstance(item, Event)]


def publish(hub, count, subject="a", kind="service.changed"):
    return [hub.publish(kind, subject, {"number": number}) for number in range(count)]


async def test_a_reader_hears_in_order_what_happens_from_its_beginning_on(hub, sight):
    publish(hub, 2)
    with hub.subscribe(ALL, sight()) as reader:
        made = publish(hub, 3)
        first, *rest = await take(reader)
    assert first == Notice("ready", {"complete": True}, "abc-2")
    assert rest == made
    assert made[0].to_json() == {
        "id": "abc-3",
        "type": "service.changed",
        "time": "2026-01-01T00:00:00.000+00:00",
        "subject": "a",
        "data": {"number": 0},
    }


async def test_a_reader_hears_only_what_it_wants(hub, sight):
    wanted = Wanted(frozenset({"service.added"}), frozenset({"a"}))
    with hub.subscribe(wanted, sight()) as reader:
        for kind in ("service.added", "service.removed"):
            for subject in ("a", "b"):
                hub.publish(kind, subject, {})
        assert [(it.type, it.subject) for it in events(await take(reader))] == [("service.added", "a")]


async def test_who_wants_changes_of_tasks_hears_that_some_are_missing(hub, sight):
    with hub.subscribe(Wanted(frozenset({"task.changed"})), sight()) as reader:
        hub.publish("task.missed", "a", {})
        assert [it.type for it in events(await take(reader))] == ["task.missed"]


async def test_what_a_reader_may_not_see_any_more_is_not_told_even_if_it_waited(hub, sight):
    mine = sight()
    with hub.subscribe(ALL, mine) as reader:
        publish(hub, 1, "a")
        publish(hub, 1, "b")
        mine.hidden.add("a")
        assert [it.subject for it in events(await take(reader))] == ["b"]


async def test_a_slow_reader_is_dropped_with_a_reason_and_others_go_on(hub, sight):
    with hub.subscribe(ALL, sight()) as slow, hub.subscribe(ALL, sight()) as quick:
        await take(quick)
        publish(hub, QUEUE - 1)
        assert slow.ending is None
        await take(quick)
        publish(hub, 2)
        assert slow.ending is not None
        assert slow.ending.reason == "SLOW_CONSUMER"
        assert await slow.next() is None
        assert len(await take(quick)) == 2
    assert hub.dropped == 1


async def test_who_has_missed_more_than_a_queue_holds_gets_it_and_still_has_room(hub, sight):
    after = hub.publish("service.changed", "a", {}).id
    made = publish(hub, KEPT - 1)
    with hub.subscribe(ALL, sight(), after=after) as reader:
        more = publish(hub, QUEUE)
        assert events(await take(reader)) == made + more


@pytest.mark.parametrize(
    "after", ["abc-0", "abc-2000", "abd-1003", "abc-", "abc", "-1003", "abc-1003x", "abc-²", "abc-" + "9" * 30, "\n"]
)
async def test_who_comes_back_with_an_id_that_says_nothing_reads_all_anew(after, sight):
    hub = EventHub(lambda wanted, sight: {"services": ["all"]}, epoch="abc")
    publish(hub, KEPT + 5)
    with hub.subscribe(ALL, sight(), after=after) as reader:
        (made,) = publish(hub, 1)
        ready, reset, snapshot, event = await take(reader)
    assert (ready.type, ready.data, ready.id) == ("ready", {"complete": False}, "")
    assert (reset.type, reset.id) == ("reset", "")
    assert (snapshot.type, snapshot.data, snapshot.id) == ("snapshot", {"data": {"services": ["all"]}}, "abc-1005")
    assert event == made


async def test_after_a_reset_of_all_ids_of_before_say_nothing(hub, sight):
    before = publish(hub, 1)[0].id
    with hub.subscribe(ALL, sight()) as reader:
        hub.reset_all()
        assert [it.type for it in await take(reader)] == ["ready", "reset", "snapshot"]
    with hub.subscribe(ALL, sight(), after=before) as reader:
        assert [it.type for it in await take(reader)] == ["ready", "reset", "snapshot"]
    with hub.subscribe(ALL, sight(), after=hub.last_id) as reader:
        assert [it.type for it in await take(reader)] == ["ready"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from("abc"), st.sampled_from(["service.added", "task.changed"])),
        st.just(("read", "", "")),
        st.just(("break", "", "")),
    ),
    max_size=60,
)


@given(
    steps=STEPS,
    wanted=st.sampled_from([ALL, Wanted(frozenset({"service.added"})), Wanted(frozenset(), frozenset("ab"))]),
)
async def test_a_stream_that_breaks_anywhere_and_goes_on_is_the_one_that_never_broke(steps, wanted, sight):
    hub = EventHub(epoch="e")
    whole, broken, last = [], [], ""
    mine = sight(hidden="c")
    with hub.subscribe(wanted, mine) as steady:
        entering = hub.subscribe(wanted, mine)
        reader = entering.__enter__()
        # Whoever breaks off before the first notice has no id to go on from.
        last = (await reader.next(0)).id
        for step, subject, kind in [*steps, ("break", "", ""), ("drain", "", "")]:
            if step == "publish":
                hub.publish(kind, subject, {})
            elif step == "break":
                entering.__exit__(None, None, None)
                entering = hub.subscribe(wanted, mine, after=last)
                reader = entering.__enter__()
            elif step == "drain":
                broken += events(await take(reader))
            else:
                try:
                    item = await reader.next(0)
                except TimeoutError:
                    # What a heartbeat says.
                    last = hub.last_id
                    continue
                last = item.id or last
                broken += events([item])
        entering.__exit__(None, None, None)
        whole = events(await take(steady))
    assert broken == whole


async def test_a_reader_may_want_something_else_from_now_on_or_from_an_event_on(hub, sight):
    with hub.subscribe(Wanted(is_nothing=True), sight()) as reader:
        made = publish(hub, 3)
        assert events(await take(reader)) == []
        hub.change(reader, Wanted(frozenset(), frozenset({"a"})))
        assert [it.type for it in await take(reader)] == ["subscribed"]
        hub.change(reader, ALL, after=made[0].id)
        hub.change(reader, ALL, after=made[0].id)
        subscribed, _, *rest = await take(reader)
        assert (subscribed.type, subscribed.id, rest) == ("subscribed", made[0].id, made[1:])
        hub.change(reader, ALL, after="other-1")
        assert [it.type for it in await take(reader)] == ["subscribed", "reset", "snapshot"]


async def test_readers_are_bounded_together_and_of_one_owner_and_places_come_back(hub, sight):
    entered = []

    def enter(owner):
        entering = hub.subscribe(ALL, sight(owner))
        entering.__enter__()
        entered.append(entering)

    for _ in range(MOST_OF_ONE):
        enter("me")
    with pytest.raises(Unavailable, match="of yours") as caught:
        enter("me")
    assert caught.value.reason == "TOO_MANY_OF_ONE"
    for number in range(MOST_READERS - MOST_OF_ONE):
        enter(f"other{number}")
    with pytest.raises(Unavailable) as caught:
        enter("one more")
    assert caught.value.reason == "TOO_MANY_READERS"
    entered.pop(0).__exit__(None, None, None)
    enter("me")
    for entering in entered:
        entering.__exit__(None, None, None)
    assert hub.readers == 0


async def test_who_may_have_nothing_any_more_and_who_is_too_old_is_ended(sight):
    now = 0.0
    hub = EventHub(longest=10.0, monotonic=lambda: now)
    refused, good = sight(), sight()
    with hub.subscribe(ALL, refused) as first, hub.subscribe(ALL, good) as second:
        publish(hub, 1)
        refused.ending = Ending("KEY_REVOKED", "It was.", 1008)
        hub.check_all()
        assert await first.next() is None
        assert first.ending is refused.ending
        assert second.ending is None
        now = 10.0
        hub.check_all()
        assert second.ending is not None
        assert second.ending.reason == "STREAM_TOO_OLD"
        # In order: what waits is told first.
        assert len(events(await take(second))) == 1


async def test_a_hub_that_closes_tells_all_and_takes_nobody(hub, sight):
    with hub.subscribe(ALL, sight()) as reader:
        publish(hub, 1)
        await hub.close(0.0)
        assert [item.type for item in await take(reader)] == ["ready", "service.changed"]
        assert reader.ending is not None
        assert reader.ending.reason == "GATEWAY_STOPPING"
    with pytest.raises(Unavailable), hub.subscribe(ALL, sight()):
        pass
    await hub.close(5.0)


async def test_it_is_known_what_is_wanted(hub, sight):
    assert not hub.wants("task.changed", "a")
    with hub.subscribe(Wanted(frozenset({"task.changed"}), frozenset({"a"})), sight()):
        assert hub.wants("task.changed", "a")
        assert not hub.wants("task.changed", "b")
    with hub.subscribe(ALL, sight(hidden="a")):
        assert not hub.wants("task.changed", "a")
