import json

import pytest

from mesh.access import ANONYMOUS, AccessRules, Principal, Target
from mesh.access.rules import fits_method
from mesh.config.document.access import AccessPolicy


def roles_of(binding, principal):
    policy = {"roles": {"r": {}, "own": {}}, "bindings": {"b": {"roles": ["r", "unknown"], **binding}}}
    return AccessRules(AccessPolicy.model_validate_json(json.dumps(policy))).roles_of(principal)


USER, KEY = Principal("user", "ada"), Principal("key", "am_1")
SERVICE = Principal("service", "spiffe://mesh/ns/default/sa/x")
TOKEN = Principal("token", "eve", issuer="corp", claims={"sub": "eve"})
EVERYBODY = (ANONYMOUS, USER, KEY, SERVICE, TOKEN)


@pytest.mark.parametrize(
    ("binding", "who"),
    [
        ({"anonymous": True}, [ANONYMOUS]),
        ({"authenticated": True}, [USER, KEY, SERVICE, TOKEN]),
        ({"anonymous": True, "authenticated": True}, [*EVERYBODY]),
        ({"users": ["ada"]}, [USER]),
        ({"users": ["*"]}, [USER]),
        ({"users": ["eve", "am_1"]}, []),
        ({"keys": ["am_1"]}, [KEY]),
        ({"keys": ["*"], "users": ["ada"]}, [USER, KEY]),
        ({"services": ["spiffe://mesh/ns/default/sa/x"]}, [SERVICE]),
        ({"claims": {"sub": "eve"}, "issuer": "corp"}, [TOKEN]),
        ({"claims": {"sub": "eve"}, "issuer": "other"}, []),
        ({"claims": {"sub": "eve"}}, []),
        ({"claims": {"sub": "ada"}, "issuer": "corp", "users": ["ada"]}, [USER]),
    ],
)
def test_a_binding_is_about_those_that_it_names(binding, who):
    assert [it for it in EVERYBODY if roles_of(binding, it)] == who


@pytest.mark.parametrize(
    ("claims", "wanted", "expected"),
    [
        ({"team": "ml"}, {"team": "ml"}, True),
        ({"team": "ml"}, {"team": "m"}, False),
        ({"team": "ml", "level": 3}, {"team": "ml", "level": "3"}, True),
        ({"team": "ml", "level": 3}, {"team": "ml", "level": "4"}, False),
        ({"groups": ["a", "ml"]}, {"groups": "ml"}, True),
        ({"groups": []}, {"groups": "ml"}, False),
        ({"groups": [["ml"]]}, {"groups": "ml"}, False),
        ({"realm": {"access": {"roles": ["x", "admin"]}}}, {"realm.access.roles": "admin"}, True),
        ({"realm": "x"}, {"realm.access.roles": "admin"}, False),
        ({"https://corp.example/team": "ml"}, {"https://corp.example/team": "ml"}, True),
        ({"admin": True}, {"admin": "true"}, True),
        ({"admin": False}, {"admin": "true"}, False),
        ({"id": 1234567.0}, {"id": "1234567"}, True),
        ({"id": 0.5}, {"id": "0.5"}, True),
        ({"id": None}, {"id": ""}, False),
        ({}, {"id": ""}, False),
        ({"email": "ada@corp.example"}, {"email": {"suffix": "@corp.example"}}, True),
        ({"email": "ada@corp.example.evil"}, {"email": {"regex": ".*@corp[.]example"}}, False),
    ],
)
def test_a_binding_to_claims_wants_all_of_them(claims, wanted, expected):
    principal = Principal("token", "eve", issuer="corp", claims=claims)
    assert bool(roles_of({"claims": wanted, "issuer": "corp"}, principal)) is expected


def test_a_binding_without_issuer_is_about_the_own_one():
    binding = {"claims": {"team": "ml"}}
    assert roles_of(binding, Principal("user", "ada", claims={"team": "ml"})) == ("r",)
    assert roles_of(binding, Principal("token", "ada", issuer="corp", claims={"team": "ml"})) == ()


def test_claims_are_looked_at_each_time():
    policy = {"roles": {"r": {}}, "bindings": {"b": {"claims": {"team": "ml"}, "roles": ["r"]}}}
    rules = AccessRules(AccessPolicy.model_validate_json(json.dumps(policy)))
    found = [rules.roles_of(Principal("user", "ada", claims={"team": team})) for team in ("ml", "x", "ml")]
    assert found == [("r",), (), ("r",)]


def test_roles_that_there_are_not_grant_nothing():
    assert roles_of({"users": ["eve"]}, Principal("user", "ada", roles=("own", "ghost"))) == ("own",)


def test_roles_come_together_sorted_and_once():
    assert roles_of({"users": ["ada"]}, Principal("user", "ada", roles=("r", "own"))) == ("own", "r")


@pytest.mark.parametrize(
    ("pattern", "method", "expected"),
    [
        ("*", "anything", True),
        ("a.B/C", "a.B/C", True),
        ("a.B/C", "/a.B/C", True),
        ("/a.B/C", "a.B/C", True),
        ("a.B/*", "a.B/C", True),
        ("a.B/*", "a.BC/C", False),
        ("a.B/C", "a.B/CD", False),
        ("/", "/", True),
        ("/", "/x", False),
        ("/x*", "/xyz", True),
        ("/x/*", "/x", False),
        ("/*", "/x/y", True),
    ],
)
def test_patterns_of_methods_and_paths(pattern, method, expected):
    assert fits_method(("q.R/S", pattern), method) is expected


def test_what_is_kept_is_bounded():
    policy = {"roles": {"r": {"allow": [{"services": ["u"]}]}}}
    rules = AccessRules(AccessPolicy.model_validate_json(json.dumps(policy)))
    for number in range(10_000):
        rules.judge(("r",), Target(f"u{number}", f"a.B/M{number}"))
        rules.roles_of(Principal("key", f"am_{number}"))
    rules.judge(("r",), Target("u", "/" + "x" * 1000))
    assert max(len(kept) for kept in (rules._verdicts, rules._relevant, rules._roles_by_principal)) <= 4096
    assert all(len(target.method) < 600 for _, target in rules._verdicts)
