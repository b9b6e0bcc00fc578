"""What becomes of a call, from the state alone."""

from dataclasses import replace

import pytest
import yaml

from mesh.config.document import HeaderMatch, MeshDocument, Policy, Text
from mesh.xds.explain import explain_call
from mesh.xds.matching import matches_header, matches_method

SAY = "echo.v1.Echo/Say"


def explained(state, document, callee="echo", method=SAY, **headers):
    policy = Policy(MeshDocument.model_validate(document))
    return explain_call(replace(state, policy=policy), "caller", callee, method, headers)


def test_an_undeclared_upstream_is_told(state):
    told = explained(state, {}, "gateway")
    assert (told.is_allowed, told.intention) == (False, "not an upstream")


def test_shares_add_up_to_100_and_endpoints_come_healthy_ones_first(state):
    told = explained(state, {"services": {"echo": {"split": {"echo": 1, "financial": 3}}}})
    assert [(it.target, it.cluster, it.percent, it.role) for it in told.targets] == [
        ("echo", "echo", 25, "route"),
        ("financial", "financial", 75, "route"),
    ]
    assert told.targets[0].endpoints == ("echo-1 10.0.0.1:20001", "echo-2 10.0.0.1:20002")
    assert told.targets[0].healthy == 1
    assert told.verdict == "goes to echo 25 %, financial 75 %."


def test_the_first_route_that_matches_is_named_with_its_mirror_and_fallback(state):
    routes = [
        {"name": "no", "match": {"headers": {"x-user": "bob"}}},
        {"name": "yes", "match": {"grpc": {"service": "echo.v1.Echo"}}, "to": "echo/v1", "mirror": {"to": "financial"}},
        {"name": "too-late"},
    ]
    told = explained(state, {"services": {"echo": {"routes": routes}}})
    assert told.route == "echo.routes yes"
    assert [(it.target, it.cluster, it.role) for it in told.targets] == [
        ("echo/v1", "v1.echo", "route"),
        ("financial", "financial", "mirror"),
    ]
    assert told.verdict.startswith("UNAVAILABLE")


def test_a_fallback_is_used_when_nothing_else_is_healthy(state):
    services = {**state.services, "echo": tuple(replace(it, is_healthy=False) for it in state.services["echo"])}
    told = explained(replace(state, services=services), {"services": {"echo": {"fallback": ["financial"]}}})
    assert told.is_allowed
    assert told.verdict == "goes to financial as a fallback."


@pytest.mark.parametrize(
    ("intentions", "default", "expected"),
    [
        ((), "allow", (True, "default allow")),
        ((), "deny", (False, "default deny")),
        ((("allow", "*", SAY),), "deny", (True, "allow by i0")),
        ((("allow", "*", SAY), ("deny", "caller", "echo.v1.Echo/*")), "deny", (False, "deny by i1")),
        ((("deny", "somebody", "*"),), "allow", (True, "default allow")),
    ],
)
def test_a_denial_beats_a_permission_and_both_the_default(state, intentions, default, expected):
    named = {
        f"i{at}": {"action": action, "callers": [caller], "services": ["echo"], "methods": [method]}
        for at, (action, caller, method) in enumerate(intentions)
    }
    told = explained(state, {"mesh": {"default_intention": default}, "intentions": named})
    assert (told.is_allowed, told.intention) == expected


def test_a_revoked_identity_may_nothing(state):
    told = explained(replace(state, revoked=frozenset({"caller"})), {})
    assert (told.is_allowed, told.intention) == (False, "revoked identity")


def test_an_authority_leads_to_its_service_and_the_policy_is_told(state):
    document = {"services": {"echo": {"authorities": ["echo.org"], "timeout": "5s", "retry": {"on": ["internal"]}}}}
    told = explained(state, document, "echo.org:443")
    assert told.is_allowed
    assert yaml.safe_load(told.policy) == {"timeout": "5s", "retry": {"on": ["internal"]}}


@pytest.mark.parametrize(
    ("match", "value", "expected"),
    [
        ({"exact": "a"}, None, False),
        ({"exact": "a", "invert": True}, None, True),
        ({"exact": "", "invert": True}, None, False),
        ({"present": True}, "", True),
        ({"present": True, "invert": True}, None, True),
        ({"present": False}, None, True),
        ({"regex": "a+"}, "aab", False),
    ],
)
def test_a_header_that_is_not_there_is_taken_as_envoy_takes_it(match, value, expected):
    assert matches_header(HeaderMatch.model_validate(match), value) is expected


def test_texts_and_methods_are_compared_as_a_whole():
    assert Text(contains="b").fits("abc")
    assert not Text(regex="b").fits("abc")
    assert matches_method("a.B/*", "/a.B/C")
    assert not matches_method("a.B/C", "/a.B/Cc")
    assert matches_method("/read*", "/reads/all")
