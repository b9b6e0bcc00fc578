from functools import reduce

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mesh.config.document import BUILT_IN, Layer, Origin, load_document, merge
from mesh.errors import DocumentInvalid, Fault, InvalidInput

LOW = """\
defaults:
  timeout: 5s
  health_check:
    kind: tcp
services:
  a:
    upstreams: [b]
    routes:
      - name: first
        to: b
      - name: second
        to: a
"""
HIGH = """\
services:
  a:
    routes:
      - name: canary
        split:
          a: 90
          b: 10
  b: {timeout: 250ms}
"""


def load(*texts):
    return load_document([Layer(f"layer{n}", f"{n}.yaml", text) for n, text in enumerate(texts)])


def faults(*texts):
    with pytest.raises(DocumentInvalid) as caught:
        load(*texts)
    return caught.value.faults


def test_mappings_merge_and_lists_are_replaced():
    document = load(LOW, HIGH).document
    assert document.services["a"].upstreams == ("b",)
    assert [route.name for route in document.services["a"].routes] == ["canary"]
    assert document.services["b"].timeout.total_seconds() == 0.25


def test_a_null_takes_away_what_a_lower_layer_says():
    document = load(LOW, "defaults: {timeout: null}\nservices: {a: null}").document
    assert document.defaults.timeout is None
    assert "a" not in document.services


def test_a_null_of_a_field_that_must_be_brings_its_default_back():
    assert (
        load("mesh: {default_intention: deny}", "mesh: {default_intention: null}").document.mesh.default_intention
        == "allow"
    )


def test_a_service_can_do_without_what_the_defaults_have():
    policy_of = load(LOW, "services: {a: {health_check: null}}").document.services["a"]
    assert "health_check" in policy_of.model_fields_set
    assert policy_of.health_check is None


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        (("services", "b", "timeout"), Origin("layer1", "1.yaml", 8)),
        (("services", "a", "upstreams"), Origin("layer0", "0.yaml", 7)),
        (("services", "a", "routes", 0, "name"), Origin("layer1", "1.yaml", 4)),
        (("services", "a", "routes", 0, "split", "b"), Origin("layer1", "1.yaml", 7)),
        (("defaults", "timeout"), Origin("layer0", "0.yaml", 2)),
        (("mesh", "default_intention"), BUILT_IN),
        # The higher layer has another list, so the route of the lower one says nothing.
        (("services", "a", "routes", 1, "to"), BUILT_IN),
    ],
)
def test_each_value_tells_who_set_it(path, origin):
    assert load(LOW, HIGH).origin(path) == origin


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("services", "a", "routes", "canary", "timeout"), 4),
        (("services", "a", "routes", 0, "timeout"), 4),
        (("services", "b", "retry", "on"), 8),
        (("services", "a", "split"), 2),
    ],
)
def test_where_is_the_line_of_the_deepest_known_value(path, line):
    assert load(LOW, HIGH).where(path).line == line


def test_origins_tell_built_in_values_of_mesh_and_defaults_too():
    origins = {path: (value, origin.layer) for path, value, origin in load(LOW, HIGH).origins()}
    assert origins["mesh", "default_intention"] == ("allow", "built-in")
    assert origins["defaults", "timeout"] == ("5s", "layer0")
    assert origins["defaults", "retry", "attempts"] == (3, "built-in")
    assert origins["services", "a", "routes", 0, "split", "a"] == (90, "layer1")
    assert ("services", "a", "timeout") not in origins


@pytest.mark.parametrize(
    ("text", "line", "field", "reason"),
    [
        ("services:\n  a:\n    rutes: []", 3, "services.a.rutes", "did you mean routes?"),
        ("mesh:\n  telemetry: {sampling: 1}", 2, "mesh.telemetry.sampling", "did you mean sampling_percent?"),
        ("mesh:\n  zzz: 1", 2, "mesh.zzz", "there are default_intention, rollout, telemetry"),
        ("services:\n  a:\n    routes:\n      - to: a", 4, "services.a.routes[0].name", "missing"),
        ("defaults:\n  timeout: 5", 2, "defaults.timeout", "write a duration such as"),
        ("defaults: {retry: {on: [5xy]}}", 1, "defaults.retry.on[0]", "use one of connect-failure"),
        ("defaults: {retry: {attempts: 2.0}}", 1, "defaults.retry.attempts", "a whole number"),
        (
            "defaults: {load_balancing: {policy: maglev, hash_on: [source_ip], table_size: 100}}",
            1,
            "defaults.load_balancing",
            "prime",
        ),
        (
            "defaults: {load_balancing: {min_ring_size: 100, max_ring_size: 10}}",
            1,
            "defaults.load_balancing",
            "max_ring_size",
        ),
        ("defaults:\n  fault:\n    headers: {x: {exct: a}}", 3, "defaults.fault.headers.x.exct", "did you mean exact"),
        (
            "defaults: {fault: {abort: {http: 500}, headers: {x: {regex: 'a(?=b)'}}}}",
            1,
            "defaults.fault.headers.x",
            "RE2",
        ),
        ("- a", 1, "", "a mapping"),
        ("services: {a: {upstreams: b}}", 1, "services.a.upstreams", "must be a list"),
        ("services: {a: {routes: [{name: r, match: {path: x}}]}}", 1, "services.a.routes[0].match", "begins with /"),
    ],
)
def test_a_fault_has_source_line_field_and_reason(text, line, field, reason):
    found = faults(LOW, text)
    assert [(fault.source, fault.line, fault.field) for fault in found] == [("1.yaml", line, field)]
    assert reason in found[0].reason


def test_all_faults_of_all_layers_are_told_at_once():
    assert [(fault.source, fault.line) for fault in faults("a: 1\na: 2", "b: .nan\nc: [")] == [
        ("0.yaml", 2),
        ("1.yaml", 1),
        ("1.yaml", 3),
    ]


def test_what_goes_with_the_built_in_values_may_not_go_with_the_defaults():
    (fault,) = faults(
        "defaults: {retry: {backoff: 90ms}}", "services:\n  a:\n    retry: {max_backoff: 50ms, backoff: null}"
    )
    assert (fault.source, fault.line, fault.field) == ("1.yaml", 3, "services.a.retry")
    assert "with `defaults`" in fault.reason


def test_a_secret_in_the_place_of_its_reference_is_not_told():
    (fault,) = faults("services: {a: {routes: [{name: r, headers: {request: {set: {x: {secret: hunter2}}}}}]}}")
    assert fault.field == "services.a.routes[0].headers.request.set.x.secret"
    assert "hunter2" not in str(fault)


def test_the_text_for_people_lists_ten_faults_and_counts_the_rest():
    error = DocumentInvalid([Fault("f.yaml", line, "x", "is bad") for line in range(1, 14)])
    assert isinstance(error, InvalidInput)
    assert len(error.faults) == 13
    assert error.summary.splitlines()[0] == "f.yaml, line 1: x: is bad"
    assert error.summary.splitlines()[10] == "and 3 more."
    assert str(DocumentInvalid([Fault("f", 2, "x", "is bad")])) == "x: f, line 2: is bad."


values = st.recursive(
    st.none() | st.integers() | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=12,
)
# A key is always a mapping or never one, as in a document that fits its model.
kinds = st.recursive(
    st.fixed_dictionaries({}, optional={"a": st.none() | st.integers(), "b": st.lists(st.integers(), max_size=2)}),
    lambda inner: st.fixed_dictionaries({}, optional={"a": st.integers(), "c": inner, "d": inner}),
)
layers = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(kinds, kinds, kinds)
def test_layers_can_be_merged_in_any_grouping(a, b, c):
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(layers)
def test_an_empty_layer_and_the_same_layer_again_change_nothing(a):
    assert merge(a, {}) == merge({}, a) == merge(a, a) == a


@given(st.lists(layers, max_size=4))
def test_what_the_highest_layer_says_counts(each):
    merged = reduce(merge, each, {})
    for key, value in (each[-1] if each else {}).items():
        assert merged[key] == value or isinstance(value, dict)


@given(
    st.text(max_size=80)
    | values.map(yaml.safe_dump)
    | layers.map(lambda said: yaml.safe_dump({"services": said, "defaults": said}))
)
def test_no_text_breaks_the_loading(text):
    try:
        load(text, LOW)
    except DocumentInvalid as error:
        assert error.faults
