import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.federation.names import LONGEST, Names, federated_name, federated_uri, split_uri

SERVERS = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
NAMES = st.one_of(
    st.text(min_size=1, max_size=120),
    st.from_regex(r"[A-Za-z0-9_-]{1,90}", fullmatch=True),
    # What looks as if it had been hashed.
    st.from_regex(r"[a-z]{1,8}--[a-z2-7]{10}", fullmatch=True),
)
OFFERED = st.lists(st.tuples(SERVERS, NAMES), max_size=30, unique=True)


@given(OFFERED)
def test_each_name_is_allowed_everywhere_and_leads_back(offered):
    names = Names(offered)
    made = [federated_name(*each) for each in offered]
    assert len(set(made)) == len(made)
    for each, name in zip(offered, made, strict=True):
        assert len(name) <= LONGEST
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
        assert names.split(name) == each


@given(OFFERED, st.randoms())
def test_a_name_does_not_depend_on_what_else_there_is(offered, order: random.Random):
    shuffled = list(offered)
    order.shuffle(shuffled)
    assert {each: federated_name(*each) for each in offered} == {each: federated_name(*each) for each in shuffled}


@pytest.mark.parametrize(
    ("server", "name", "shown"),
    [
        ("utilities", "convert_units", "utilities__convert_units"),
        ("a", "b__c", "a__b__c"),
        ("files", "read/text", "files__read-text--5hq6ieamf5"),
    ],
)
def test_names_stay_what_they_are_from_version_to_version(server, name, shown):
    """Hosts and rules of approval know tools by these names."""
    assert federated_name(server, name) == shown


def test_long_names_with_the_same_beginning_stay_apart():
    first, second = (federated_name("server", "x" * 100 + end) for end in "ab")
    assert first != second
    assert first.startswith("server__xxx")


@pytest.mark.parametrize("name", ["", "plain", "__x", "x__", "a__b--aaaaaaaaaa"])
def test_what_is_no_name_of_ours_leads_nowhere(name):
    assert Names().split(name) is None


@given(SERVERS, st.from_regex(r"[a-z][a-z+.-]{0,9}:.{0,60}", fullmatch=True))
def test_each_uri_leads_back(server, uri):
    assert split_uri(federated_uri(server, uri)) == (server, uri)


@pytest.mark.parametrize("uri", ["", "file:///x", "+file:///x", "server+", "http://a+b/c"])
def test_what_is_no_uri_of_ours_leads_nowhere(uri):
    assert split_uri(uri) is None
