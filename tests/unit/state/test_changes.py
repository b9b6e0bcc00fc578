from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.config.document import Policy
from mesh.model import Declaration, Instance
from mesh.state import MeshState, changes_between, track
from mesh.state.changes import EVERY_KEY

NAMES = st.sampled_from(["a", "b", "c"])
SERVICES = st.dictionaries(NAMES, st.tuples(st.integers(1, 3), st.booleans()))


def services_of(drawn):
    return {name: (Instance(name, f"{name}-1", "h", port, is_healthy=well),) for name, (port, well) in drawn.items()}


def start():
    return MeshState("mesh.test").with_declarations({"a": Declaration("a", "agent", ("b",))})


@settings(deadline=None)
@given(st.lists(SERVICES, max_size=5))
def test_a_version_does_not_tell_how_a_state_came_about(steps):
    state = start()
    for drawn in steps:
        state = state.with_services(services_of(drawn))
    fresh = MeshState("mesh.test", services=dict(state.services), declarations=dict(state.declarations))
    assert state.version == fresh.version


@settings(deadline=None)
@given(SERVICES, SERVICES)
def test_the_changed_facts_are_those_of_services_that_differ(before, after):
    old = start().with_services(services_of(before))
    new = old.with_services(services_of(after))
    facts = changes_between(old, new)
    differing = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert {key for field, key in facts if field == "services" and key != EVERY_KEY} == differing
    assert (("services", EVERY_KEY) in facts) == (before.keys() != after.keys())


def test_what_means_the_same_is_the_same_state():
    state = start().with_services(services_of({"a": (1, True)}))
    assert state.with_services(services_of({"a": (1, True)})) is state
    assert state.with_declarations(dict(state.declarations)) is state
    assert state.with_policy(Policy()) is state
    assert state.with_revoked(frozenset()) is state


def test_a_service_that_stays_keeps_its_very_objects_while_others_change():
    state = start().with_services(services_of({"a": (1, True), "b": (1, True)}))
    after = state.with_services(services_of({"a": (1, True), "b": (2, True)}))
    assert after.services["a"] is state.services["a"]


def test_a_field_that_is_no_mapping_concerns_everybody():
    state = start()
    assert changes_between(state, replace(state, trust_domain="other.test")) is None
    assert changes_between(state, state.with_revoked(frozenset({"a"}))) is None


@pytest.mark.parametrize(
    ("read", "facts"),
    [
        (lambda state: state.declarations.get("a"), {("declarations", "a")}),
        (lambda state: state.declarations.get("nobody"), {("declarations", "nobody")}),
        (lambda state: "a" in state.services, {("services", "a")}),
        (lambda state: len(state.services), {("services", EVERY_KEY)}),
        (lambda state: state.upstreams_of("a"), {("declarations", "a")}),
        (lambda state: state.names, {("services", EVERY_KEY), ("declarations", EVERY_KEY)}),
    ],
)
def test_what_is_read_of_a_tracked_state_is_noted(read, facts):
    state = start().with_services(services_of({"a": (1, True)}))
    tracked, noted = track(state)
    assert read(tracked) == read(state)
    assert noted == facts
