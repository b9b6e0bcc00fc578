import pytest
from graphql import get_introspection_query, parse
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.web.graphql.bounds import MOST_ALIASES, check_bounds
from services.gateway.web.graphql.documents import MOST_TOKENS


def reasons(query, **variables):
    return [error.extensions["reason"] for error in check_bounds(parse(query), variables)]


DEEP = "{ services { nodes { agent { service { agent { service { agent { service { name } } } } } } } } }"


@pytest.mark.parametrize(
    "query",
    [
        DEEP,
        "{ services { ...a } } fragment a on ServiceConnection { nodes { ...b } } "
        "fragment b on Service { agent { service { agent { service { agent { service { name } } } } } } }",
        "{ ... on Query { services { nodes { ... "
        "{ agent { service { agent { service { agent { service { name } } } } } } } } } } }",
    ],
)
def test_a_query_that_is_too_deep_is_refused_however_it_is_written(query):
    assert reasons(query) == ["QUERY_TOO_DEEP"]


def test_aliases_are_counted_as_often_as_fragments_bring_them():
    some = " ".join(f"a{number}: name" for number in range(10))
    fragment = f"fragment f on Service {{ {some} }}"
    assert reasons('{ service(name: "a") { ...f } } ' + fragment) == []
    spreads = " ".join(f'x: service(name: "{number}") {{ ...f }}' for number in range(MOST_ALIASES // 10))
    assert reasons(f"{{ {spreads} }} {fragment}") == ["QUERY_TOO_MANY_ALIASES"]


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ("(first: 100)", {}),
        ("(first: $n)", {"n": 100}),
        ("(first: $n)", {"n": 10**30}),
        ("(first: $n)", {"n": "100"}),
        ("(first: $d)", {}),
        ("(first: 99999999999999999999)", {}),
    ],
)
def test_pages_within_pages_cost_what_they_are_long(arguments, variables):
    query = "query ($n: Int, $d: Int = 100) { services%s { nodes { tools(first: 100) { nodes { name } } } } }"
    assert reasons(query % arguments, **variables) == ["QUERY_TOO_COSTLY"]
    assert reasons(query % "(first: 2)", **variables) == []


def test_fragments_that_double_each_other_are_measured_once():
    count = 150
    chain = "".join(f"fragment f{it} on Query {{ ...f{it + 1} ...f{it + 1} }} " for it in range(40))
    wide = f"{{ ...f0 }} {chain} fragment f40 on Query {{ services {{ totalCount }} }}"
    assert reasons(wide) == ["QUERY_TOO_COSTLY"]
    long = "".join(f"fragment f{it} on Query {{ ...f{it + 1} }} " for it in range(count))
    assert reasons(f"{{ ...f0 }} {long} fragment f{count} on Query {{ a }}") == ["QUERY_TOO_DEEP"]


def test_fragments_that_lead_to_themselves_come_to_an_end():
    assert reasons("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a x }") == []


def test_tools_may_ask_for_the_schema():
    query = get_introspection_query(specified_by_url=True, directive_is_repeatable=True, input_value_deprecation=True)
    parse(query, max_tokens=MOST_TOKENS)
    assert reasons(query) == []


names = st.sampled_from(["services", "nodes", "tools", "agent", "name", "__schema", "x"])
selections = st.recursive(
    names,
    lambda inner: st.builds(
        lambda name, alias, first, body: f"{alias}{name}{first} {{ {' '.join(body)} }}",
        names,
        st.sampled_from(["", "a: "]),
        st.sampled_from(["", "(first: 5)", "(first: -1)", "(first: $n)", '(first: "x")', "(first: null)"]),
        st.lists(st.one_of(inner, st.sampled_from(["...f", "...g", "... { x }"])), min_size=1, max_size=4),
    ),
    max_leaves=30,
)


@given(st.lists(selections, min_size=1, max_size=3), selections, selections)
def test_any_document_is_measured(operation, first, second):
    text = (
        f"query ($n: Int) {{ {' '.join(operation)} }} fragment f on Q {{ {first} }} fragment g on Q {{ {second} ...f }}"
    )
    assert {*reasons(text)} <= {"QUERY_TOO_DEEP", "QUERY_TOO_MANY_ALIASES", "QUERY_TOO_COSTLY"}
