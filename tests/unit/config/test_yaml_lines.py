import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mesh.config.yaml_lines import MOST_BYTES, field_text, parse_yaml

LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


def only_flaw(text):
    (flaw,) = parse_yaml(text).flaws
    return flaw


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("on", "on"),
        ("[yes, No, off, y]", ["yes", "No", "off", "y"]),
        ("[true, FALSE, ~, null]", [True, False, None, None]),
        (
            "[1:30, 1_000, 2026-01-02, 0o17, 0x1F, 017, 1e3, .5, -3]",
            ["1:30", "1_000", "2026-01-02", 15, 31, 17, 1e3, 0.5, -3],
        ),
        ("on: [5xx]", {"on": ["5xx"]}),
        ("'1': \"true\"", {"1": "true"}),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    assert parse_yaml(text).value == value
    assert not parse_yaml(text).flaws


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: {\n", 3, "this is not YAML"),
        ("a: 1\nb: \x07", 2, "this is not YAML"),
        ("a: \ud800", 1, "this is not YAML"),
        ("a: 1\n---\nb: 1", 2, "second document"),
        ("a: 1\n? [b]\n: 2", 2, "this key must be text"),
        ("a: 1\n5: 2", 2, "this key must be text"),
        ("true: 2", 1, "this key must be text"),
        ("a: 1\nb: 2\na: 3", 3, "stands here twice"),
        ("a: [.nan]", 1, "no number"),
        ("a: -.inf", 1, "no number"),
        ("a: 1e999", 1, "too large"),
        (f"a: {'9' * 5000}", 1, "too many digits"),
        ("a: *b", 1, "no anchor"),
        ("a: &b [*b]", 1, "stands in what it stands for"),
        ("a: !!python/object:os.system x", 1, "no tag"),
        ("a: !!binary eA==", 1, "no tag"),
        ("a: !!int x", 1, "not what its tag says"),
        ("a: {<<: 5}", 1, "only mappings"),
        (LAUGHS, 6, "values"),
        ("[" * 100_000, 1, "nested deeper"),
        ("- " * 1000 + "a", 1, "nested deeper"),
        ("a: " + "x" * MOST_BYTES, 1, "longer than 1 MB"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_line(text, line, reason):
    flaw = only_flaw(text)
    assert flaw.line == line
    assert reason in flaw.reason


def test_deep_values_do_not_hide_behind_aliases():
    deep = "a: &a " + "[" * 40 + "]" * 40
    assert "nested deeper" in only_flaw(f"{deep}\nb: {'[' * 20}*a{']' * 20}").reason


def test_a_flaw_has_the_path_of_its_value():
    flaw = only_flaw("a:\n  b:\n    - c: 1\n    - c: 1\n      d: .nan\n")
    assert (field_text(flaw.path), flaw.line) == ("a.b[1].d", 5)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("a",), 1),
        (("a", "b", 1, "d"), 5),
        (("a", "b", "second", "d"), 5),
        (("a", "b", 7), 2),
        (("a", "x"), 1),
    ],
)
def test_the_line_is_that_of_the_deepest_value_on_the_way(path, line):
    assert parse_yaml("a:\n  b:\n    - name: first\n    - name: second\n      d: 1\n").line(path) == line


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("services", "a", "routes", 0, "timeout"), "services.a.routes[0].timeout"),
        (("split", "a/v1"), "split.a/v1"),
        (("headers", "x.y"), 'headers["x.y"]'),
        ((), ""),
    ],
)
def test_paths_are_written_as_people_write_them(path, text):
    assert field_text(path) == text


@given(plain)
def test_what_pyyaml_writes_with_quotes_is_read_as_it_was(value):
    text = yaml.safe_dump(value, default_style='"', allow_unicode=True)
    read = parse_yaml(text)
    assert not read.flaws
    assert read.value == value


def _leaves(value, path=()):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield path, value
    for key, below in pairs:
        yield from _leaves(below, (*path, key))


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), plain, min_size=1, max_size=5))
def test_each_value_is_found_on_its_line(value):
    """Written with one value per line, a path's line is the one that PyYAML's own nodes have."""
    text = yaml.safe_dump(value, default_flow_style=False, default_style='"', allow_unicode=True, width=math.inf)
    root = yaml.compose(text)
    read = parse_yaml(text)
    for path, _ in _leaves(value):
        node, line = root, 1
        for step in path:
            if isinstance(step, int):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                key, node = next(pair for pair in node.value if pair[0].value == step)
                line = key.start_mark.line + 1
        if path:
            assert read.line(path) == line


@given(st.text(max_size=200) | st.text("[]{}:-,&*!|>'\"\n a1#?%@`~", max_size=60))
def test_no_text_breaks_the_reader(text):
    read = parse_yaml(text)
    assert (read.value is None) or not read.flaws
    assert all(flaw.line >= 1 for flaw in read.flaws)
