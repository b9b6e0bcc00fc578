from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.discovery import HealthCheck
from mesh.discovery.embedded.record import Record
from mesh.discovery.embedded.table import LeaseTable, Renewal
from mesh.model import Address, Instance


def is_healthy(table, service="a"):
    return {instance.id: instance.is_healthy for instance in table.services.get(service, ())}


def passes(table, record, now=0.0):
    return table.note_check(record.instance.id, record.check.target, is_healthy=True, output="", now=now)


def fails(table, record, now=0.0, output="refused"):
    return table.note_check(record.instance.id, record.check.target, is_healthy=False, output=output, now=now)


@pytest.fixture
def healthy(record):
    """A table with one instance whose check passes, and its record."""
    table = LeaseTable()
    table.put(record(), 0.0)
    passes(table, record())
    return table, record()


def test_an_instance_is_unhealthy_until_its_check_passes(record):
    table = LeaseTable()
    table.put(record(is_healthy=True), 0.0)
    assert is_healthy(table) == {"a-1": False}
    assert passes(table, record()).instance.is_healthy
    assert is_healthy(table) == {"a-1": True}


def test_a_lease_that_is_not_renewed_ends_and_says_so(healthy):
    table, _ = healthy
    assert not table.expire(14.9).ended
    (ended,) = table.expire(15.0).ended
    assert ended.instance.id == "a-1"
    (instance,) = table.services["a"]
    assert not instance.is_healthy
    assert "lease" in instance.health_output
    assert not table.expire(16.0).ended, "an end is told once"


def test_a_renewed_lease_lasts(healthy):
    table, _ = healthy
    assert table.renew("a-1", 10.0) is Renewal.RENEWED
    assert not table.expire(24.9).ended
    assert table.expire(25.0).ended


def test_a_launcher_that_comes_back_makes_a_passing_instance_healthy_at_once(healthy):
    table, _ = healthy
    table.expire(15.0)
    assert table.renew("a-1", 40.0) is Renewal.RESUMED
    assert is_healthy(table) == {"a-1": True}
    assert not table.expire(54.0).forgotten


def test_nobody_renews_what_is_not_there():
    assert LeaseTable().renew("a-1", 0.0) is Renewal.UNKNOWN


def test_an_instance_without_a_lease_is_forgotten_after_the_time_of_its_check(healthy):
    table, _ = healthy
    table.expire(15.0)
    assert not table.expire(74.9).forgotten
    (forgotten,) = table.expire(75.0).forgotten
    assert forgotten.instance.id == "a-1"
    assert table.services == {}


def test_an_instance_whose_check_fails_is_forgotten_though_it_is_renewed(healthy):
    table, record = healthy
    fails(table, record, now=5.0)
    table.renew("a-1", 60.0)
    assert not table.expire(64.9).forgotten
    assert table.expire(65.0).forgotten


def test_a_check_that_passes_again_starts_the_time_anew(healthy):
    table, record = healthy
    fails(table, record, now=5.0)
    passes(table, record, now=50.0)
    fails(table, record, now=60.0)
    table.renew("a-1", 100.0)
    assert not table.expire(114.0).forgotten


def test_a_replacement_at_the_same_place_keeps_its_health(healthy, record):
    table, _ = healthy
    table.put(record(capabilities=("npv",)), 1.0)
    assert is_healthy(table) == {"a-1": True}


def test_a_replacement_at_another_place_is_checked_first(healthy, record):
    table, _ = healthy
    table.put(record(port=1001), 1.0)
    assert is_healthy(table) == {"a-1": False}


def test_a_check_of_the_place_before_says_nothing(healthy, record):
    table, before = healthy
    table.put(record(port=1001), 1.0)
    assert passes(table, before) is None
    assert is_healthy(table) == {"a-1": False}


def test_an_instance_may_change_its_service(healthy, record):
    table, _ = healthy
    table.put(record(service="b"), 1.0)
    assert set(table.services) == {"b"}
    assert table.count_of("a") == 0


def test_a_check_that_finds_the_same_again_is_no_change(healthy):
    table, record = healthy
    assert passes(table, record) is None
    assert fails(table, record) is not None
    assert fails(table, record) is None
    assert fails(table, record, output="timeout") is not None


def test_what_an_earlier_life_knew_keeps_its_health_and_gets_time(record):
    known = [record("a-1", lease=5.0), record("a-2", is_healthy=False)]
    table = LeaseTable(known, now=100.0, grace=10.0)
    assert is_healthy(table) == {"a-1": True, "a-2": False}
    assert not table.expire(109.9).ended
    assert [ended.instance.id for ended in table.expire(110.0).ended] == ["a-1"]


def test_the_dead_of_an_earlier_life_are_forgotten_when_the_grace_is_over(record):
    table = LeaseTable([record("a-1"), record("a-2"), record("a-3")], now=100.0, grace=10.0)
    fails(table, record("a-1"), now=101.0)
    fails(table, record("a-2"), now=101.0)
    table.renew("a-2", 102.0)
    assert not table.expire(109.9).forgotten
    assert [gone.instance.id for gone in table.expire(110.0).forgotten] == ["a-1"]


def test_time_in_which_nobody_listened_ends_no_lease(healthy):
    table, _ = healthy
    table.postpone(600.0)
    assert not table.expire(614.0).ended


def test_a_copy_of_the_services_stays_as_it_is(healthy):
    table, _ = healthy
    before = table.services
    table.remove("a-1")
    assert [instance.id for instance in before["a"]] == ["a-1"]


_ids = st.sampled_from(["a-1", "a-2", "b-1"])
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _ids, st.sampled_from("ab")),
        st.tuples(st.just("remove"), _ids),
        st.tuples(st.just("renew"), _ids),
        st.tuples(st.just("check"), _ids, st.booleans()),
        st.tuples(st.just("expire")),
        st.tuples(st.just("wait"), st.floats(0.0, 40.0)),
    ),
    max_size=40,
)


@given(_steps)
@settings(max_examples=150, deadline=None)
def test_services_always_are_the_records_by_name_and_id(steps):
    table, now = LeaseTable(), 0.0
    for step in steps:
        match step:
            case "put", key, service:
                place = Address("127.0.0.1", 1)
                table.put(Record(Instance(service, key, place.host, 1), HealthCheck(place, use_tls=False)), now)
            case "remove", key:
                table.remove(key)
            case "renew", key:
                table.renew(key, now)
            case "check", key, passing:
                table.note_check(key, Address("127.0.0.1", 1), is_healthy=passing, output="x", now=now)
            case ("expire",):
                table.expire(now)
            case "wait", seconds:
                now += seconds
        told = [(name, instance.id) for name, found in table.services.items() for instance in found]
        assert told == sorted((record.instance.service, record.instance.id) for record in table.records)
        healthy = {instance.id for found in table.services.values() for instance in found if instance.is_healthy}
        assert healthy <= {record.instance.id for record in table.records if record.instance.is_healthy}


def test_replacing_the_record_of_another_health_is_not_how_health_changes(healthy):
    table, record = healthy
    table.put(replace(record, instance=replace(record.instance, is_healthy=False, health_output="I say so")), 1.0)
    assert is_healthy(table) == {"a-1": True}
