import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mesh.config.document import Layer, MeshDocument, load_document
from mesh.config.document.changes import ValueChange, changed_paths
from mesh.config.document.printing import MASK, document_text, mask, masked_origins, to_yaml
from mesh.config.yaml_lines import parse_yaml

names = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=12)
durations = st.sampled_from(["0", "1ms", "1.5s", "250ms", "366h", "1234567ms", "0.001ms", "10.0001s", "8784h"])
forms = st.one_of(
    texts,
    *(st.fixed_dictionaries({form: texts.filter(bool)}) for form in ("prefix", "suffix", "contains")),
    st.fixed_dictionaries({"regex": st.sampled_from(["a+", "^x$", r"\d{3}"])}, optional={"invert": st.booleans()}),
    st.fixed_dictionaries({"present": st.booleans()}, optional={"invert": st.booleans()}),
)
values = texts | st.sampled_from([{"secret": "env:A"}, {"secret": "kv:a/b.c"}, {"secret": "file:/run/x"}])
routes = st.fixed_dictionaries(
    {"name": names},
    optional={
        "match": st.fixed_dictionaries({}, optional={"headers": st.dictionaries(names, forms, max_size=2)}),
        "split": st.dictionaries(names, st.integers(0, 100), max_size=3),
        "timeout": durations | st.none(),
        "retry": st.fixed_dictionaries({}, optional={"attempts": st.integers(0, 10), "on": st.just(["5xx", "reset"])}),
        "headers": st.fixed_dictionaries(
            {"request": st.fixed_dictionaries({"set": st.dictionaries(names, values, max_size=2)})}
        ),
        "fault": st.fixed_dictionaries(
            {"delay": st.fixed_dictionaries({"duration": st.just("1s"), "percent": st.floats(0, 100)})}
        ),
    },
)
services = st.fixed_dictionaries(
    {},
    optional={
        "routes": st.lists(routes, max_size=3),
        "timeout": durations | st.none(),
        "upstreams": st.lists(names, max_size=2),
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "services": st.dictionaries(names, services, max_size=3),
        "mesh": st.fixed_dictionaries({"default_intention": st.sampled_from(["allow", "deny"])}),
        "defaults": services.map(lambda it: {key: it[key] for key in it if key == "timeout"}),
    },
)


def load(text):
    return load_document([Layer("it", "it.yaml", text)]).document


@given(documents)
def test_a_document_that_is_printed_reads_back_equal(plain):
    document = load(yaml.safe_dump(plain, default_style='"', allow_unicode=True) if not plain else to_yaml(plain))
    again = load(document_text(document))
    assert again == document
    assert document_text(again) == document_text(document)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-9, 9)
        | st.floats(-5, 5)
        | st.text(max_size=9)
        | st.sampled_from(["on", "0o17", "1e3", "1:30", "~", "-", "2026-01-01", "=", "<<", "#", " a "]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("<<"), inner, max_size=3)
        ),
        max_leaves=9,
    )
)
def test_what_is_printed_is_read_as_it_was(value):
    read = parse_yaml(to_yaml(value))
    assert not read.flaws
    assert read.value == value


@pytest.mark.parametrize("text", ["250ms", "1.5s", "1m30s", "2h", "0", "8784h", "0.001ms", "12.345678s", "1234567ms"])
def test_durations_are_printed_exactly(text):
    document = load(f"defaults: {{timeout: {text!r}}}")
    assert load(document_text(document)).defaults.timeout == document.defaults.timeout


SECRETIVE = """
services:
  token-desk:
    routes:
      - name: r
        match: {headers: {x-session-token: {prefix: abc}, x-plain: seen}}
        headers: {request: {set: {cookie: sid=1, x-plain: seen, x-secret: {secret: env:A}}}}
"""


def test_what_looks_like_a_secret_is_masked_and_references_stay():
    route = mask(load(SECRETIVE))["services"]["token-desk"]["routes"][0]
    assert route["match"]["headers"] == {"x-session-token": {"prefix": MASK}, "x-plain": "seen"}
    assert route["headers"]["request"]["set"] == {"cookie": MASK, "x-plain": "seen", "x-secret": {"secret": "env:A"}}


def test_origins_are_sorted_and_masked():
    loaded = load_document([Layer("it", "it.yaml", SECRETIVE)])
    origins = {field: (value, origin.line) for field, value, origin in masked_origins(loaded)}
    assert list(origins) == sorted(origins)
    assert origins["services.token-desk.routes[0].match.headers.x-session-token.prefix"] == (MASK, 6)
    assert origins["services.token-desk.routes[0].headers.request.set.cookie"] == (MASK, 7)
    assert origins["services.token-desk.routes[0].match.headers.x-plain"] == ("seen", 6)
    assert origins["defaults.retry.attempts"] == (3, 0)


def test_changes_name_routes_so_that_a_new_one_in_front_changes_nothing_else():
    before = load("services: {a: {timeout: 1s, routes: [{name: x, to: a}, {name: y, to: a}]}}")
    after = load(
        "services: {a: {timeout: 2s, routes: [{name: new, to: b}, {name: x, to: a}, {name: y, to: b}]}, b: {}}"
    )
    assert changed_paths(before, after) == (
        ValueChange("services.a.routes", '["x", "y"]', '["new", "x", "y"]'),
        ValueChange("services.a.routes.new.to", "", '"b"'),
        ValueChange("services.a.routes.y.to", '"a"', '"b"'),
        ValueChange("services.a.timeout", '"1s"', '"2s"'),
        ValueChange("services.b", "", "{}"),
    )


def test_a_changed_secret_is_told_without_its_value():
    changes = changed_paths(load(SECRETIVE), load(SECRETIVE.replace("sid=1", "sid=2")))
    assert [(change.before, change.after) for change in changes] == [(f'"{MASK}"', f'"{MASK}"')]


@given(documents, documents)
def test_equal_documents_have_no_changes_and_others_have(one, other):
    first, second = MeshDocument.model_validate(one), MeshDocument.model_validate(other)
    assert changed_paths(first, first) == ()
    assert (changed_paths(first, second) == ()) == (
        first.model_dump_json(exclude_unset=True) == second.model_dump_json(exclude_unset=True)
    )
