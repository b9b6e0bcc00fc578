"""Whose fault a refusal is, who gets a change first, and what in the document caused it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.xds import names
from mesh.xds.resources import Resource, build_resource
from mesh.xds.rollout import (
    ChangedField,
    Vetoes,
    changed_resources,
    choose_first,
    find_cause,
    find_culprit,
    resource_changes,
)
from mesh.xds.snapshot import Snapshot


def snapshot(**clusters):
    return Snapshot({names.CLUSTER: {name: Resource(names.CLUSTER, name, v, b"") for name, v in clusters.items()}})


def culprit(*candidates, **refused):
    return find_culprit(candidates, names.CLUSTER, refused)


def test_a_resource_that_the_revision_before_gives_too_is_nobodys_fault():
    assert culprit(snapshot(a="1", b="1"), snapshot(a="1", b="2"), a="1") is None


def test_a_resource_that_is_another_one_by_the_change_is_its_fault():
    assert culprit(snapshot(a="1"), snapshot(a="2"), a="2") == 1
    assert culprit(snapshot(), snapshot(a="2"), a="2") == 1


def test_of_two_revisions_the_one_that_brought_the_resource_is_at_fault():
    assert culprit(snapshot(a="1"), snapshot(a="2"), snapshot(a="2", b="1"), a="2") == 1
    assert culprit(snapshot(a="1"), snapshot(a="2"), snapshot(a="3"), a="3") == 2


def test_what_was_refused_and_is_not_wanted_any_more_says_nothing():
    assert culprit(snapshot(a="1"), snapshot(a="2"), a="0") is None
    assert culprit(snapshot(a="1"), a="1") is None


def test_one_bad_resource_among_good_ones_is_enough():
    assert culprit(snapshot(a="1", b="1"), snapshot(a="1", b="2"), a="1", b="2") == 1


def test_changed_resources_tell_what_is_new_changed_and_gone():
    changed = changed_resources(snapshot(a="1", b="1", c="1"), snapshot(a="1", b="2", d="1"))
    assert changed == {names.CLUSTER: {"b": "2", "d": "1", "c": None}}
    assert changed_resources(snapshot(a="1"), snapshot(a="1")) == {}


@given(st.sets(st.text("abc/-123", min_size=1), min_size=1), st.floats(0, 100))
def test_the_first_are_a_share_and_at_least_one_and_always_the_same(nodes, percent):
    first = choose_first(nodes, percent, "7")
    assert first <= nodes
    assert len(first) == max(1, int(len(nodes) * percent / 100))
    assert first == choose_first(sorted(nodes, reverse=True), percent, "7")


def test_nobody_is_first_among_nobody():
    assert choose_first([], 10, "1") == frozenset()


CHANGES = (
    ChangedField("services.echo.load_balancing.policy", '"maglev"'),
    ChangedField("services.echo.load_balancing.table_size", "1000"),
    ChangedField("services.bonds.timeout", '"3s"'),
    ChangedField("services.bonds.routes[0].match.headers.x-a.text.regex", '"(?!x)"'),
)


@pytest.mark.parametrize(
    ("resources", "message", "path"),
    [
        (["echo"], "The table size of maglev must be prime number", "services.echo.load_balancing.table_size"),
        (["outbound"], "Invalid regex '(?!x)': invalid perl operator: (?!", CHANGES[3].path),
        (["bonds"], "no", "services.bonds.timeout"),
    ],
)
def test_the_cause_is_what_the_complaint_is_about(resources, message, path):
    found = find_cause(CHANGES, resources, message)
    assert found is not None
    assert found.path == path


def test_a_revision_without_changes_has_no_cause():
    assert find_cause((), ["echo"], "no") is None


def test_vetoes_run_out_and_come_back():
    now = [0.0]
    vetoes = Vetoes(clock=lambda: now[0], most=2, seconds=60)
    assert [vetoes.use("a"), vetoes.use("a"), vetoes.use("a"), vetoes.use("b")] == [True, True, False, True]
    now[0] = 61
    assert vetoes.use("a")


def test_secrets_are_masked_inside_of_resources():
    def routes(value):
        header = {"header": {"key": "authorization", "value": value}}
        return build_resource(
            names.ROUTE,
            "outbound",
            {"virtual_hosts": [{"name": "a", "domains": ["*"], "request_headers_to_add": [header]}]},
        )

    before = Snapshot({names.ROUTE: {}})
    after = Snapshot({names.ROUTE: {"outbound": routes("Bearer s3cret-long")}})
    (change,) = resource_changes("a/a-1", before, after, ["s3cret", "s3cret-long"])
    assert (change.type, change.name, change.before) == ("route", "outbound", "")
    assert "s3cret" not in change.after
    assert "Bearer ***" in json.dumps(json.loads(change.after))
