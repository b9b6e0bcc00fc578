"""The parser that remembers says what json.loads says, whatever comes, and parses once what stays the same."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.discovery.checks_parser import ChecksParser

TEXTS = st.sampled_from(['},{"Node":"', '[{"Node":"', "}]", '"', "\\", "x"]) | st.text(max_size=5)
VALUES = st.recursive(TEXTS | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=3)
CHECKS = st.fixed_dictionaries({"Node": TEXTS, "Output": VALUES})
NESTED = st.fixed_dictionaries({"Node": TEXTS, "More": st.lists(CHECKS, max_size=2)})


@settings(deadline=None)
@given(st.lists(st.lists(CHECKS | NESTED, max_size=4), max_size=4), st.booleans())
def test_it_says_what_json_says(answers, is_compact):
    parser = ChecksParser()
    for checks in answers:
        text = json.dumps(checks, separators=(",", ":") if is_compact else None, ensure_ascii=False)
        assert parser.parse(text) == json.loads(text)


@pytest.mark.parametrize("text", ["", "[", '[{"Node":"a"', '[{"Node":"a"},{"Node":"b}]', '[{"Node":"}]', "<html>"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(json.JSONDecodeError):
        ChecksParser().parse(text)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '[{"Node":"a"}]\n', '[{"CheckID":"a"},{"CheckID":"b"}]', "[1,2]"])
def test_other_forms_are_read_as_well(text):
    assert ChecksParser().parse(text) == json.loads(text)


def test_what_stays_is_not_parsed_again():
    parser = ChecksParser()
    first = parser.parse('[{"Node":"a","M":1},{"Node":"b","M":1}]')
    second = parser.parse('[{"Node":"a","M":1},{"Node":"b","M":2}]')
    assert second[0] is first[0]
    assert second[1] == {"Node": "b", "M": 2}
