"""Page tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.agent.paging import PageTokens
from mesh.errors import InvalidInput


@given(st.integers(0, 2**63), st.text())
def test_a_token_gives_its_number_back(serial, filters):
    tokens = PageTokens()
    assert tokens.parse(tokens.make(serial, filters), filters) == serial


@given(st.text(min_size=1, max_size=60))
def test_any_other_text_is_refused(text):
    with pytest.raises(InvalidInput) as caught:
        PageTokens().parse(text, "")
    assert caught.value.field == "page_token"


def test_a_token_holds_for_its_filter_and_its_process_only():
    tokens = PageTokens()
    made = tokens.make(7, "a")
    for other, filters in ((tokens, "b"), (PageTokens(), "a")):
        with pytest.raises(InvalidInput):
            other.parse(made, filters)


def test_no_token_is_the_first_page():
    assert PageTokens().parse("", "any") is None
