import json

import pytest

from mesh.access.firewall import Firewall
from mesh.config.document import load_document
from mesh.config.document.edge import Firewall as FirewallPolicy
from mesh.config.document.files import environment_layers


def firewall(text):
    return Firewall(FirewallPolicy.model_validate_json(json.dumps(text)))


def one(where, pattern, **more):
    return firewall({"rules": {"it": {"where": where, "pattern": pattern, **more}}})


@pytest.fixture(scope="module")
def delivered():
    return Firewall(load_document(environment_layers("production")).document.edge.firewall)


def test_no_benign_request_is_found(delivered, benign_requests):
    assert len(benign_requests) >= 150
    found = [(it, delivered.inspect(*it)) for it in benign_requests]
    assert [(it, finding.rule) for it, finding in found if finding is not None] == []


def test_every_attack_is_refused(delivered, attacks):
    assert len(attacks) >= 60
    found = [(it, delivered.inspect(*it)) for it in attacks]
    assert [it for it, finding in found if finding is None or not finding.blocks] == []


def test_letters_match_in_either_case():
    assert one("path", "^/admin").inspect("/ADMIN", {}).rule == "it"


def test_queries_are_decoded_once_and_twice_and_by_parameter():
    wall = one("query", "^q=a b$")
    for query in ("q=a%20b", "q=a+b", "q=a%2520b", "x=1&q=a+b&y=2"):
        assert wall.inspect(f"/?{query}", {}) is not None
    assert wall.inspect("/?q=a&b", {}) is None


def test_a_rule_for_one_header_looks_at_no_other():
    wall = one("header", "evil", header="x-a")
    assert wall.inspect("/", {"x-a": "Evil"}).where == "header"
    assert wall.inspect("/", {"x-b": "evil"}) is None


def test_json_is_looked_at_in_its_texts_and_names():
    wall = one("body", "^evil$")
    for body in (b'{"a": ["\\u0065vil"]}', b'{"evil": 1}', b'"evil"', b"evil"):
        assert wall.inspect("/", {}, body) is not None
    assert wall.inspect("/", {}, b'{"a": "ev", "b": "il"}') is None


def test_json_that_is_too_deep_is_looked_at_as_text():
    wall = one("body", "evil")
    for depth in (40, 100_000):
        assert wall.inspect("/", {}, b"[" * depth + b'"evil"' + b"]" * depth) is not None


def test_halves_of_characters_stop_nothing():
    assert one("body", "evil").inspect("/", {}, b'{"a": "\\ud800 evil"}') is not None


def test_anchors_mean_the_text_whatever_lines_it_has():
    for pattern in ("^evil$", r"\Aevil\z", "(?i)^evil$"):
        wall = one("body", pattern)
        assert wall.inspect("/", {}, b'{"a": "x", "b": "evil"}') is not None
        assert wall.inspect("/", {}, b'{"a": "x\\nevil"}') is None


def test_rules_that_cannot_be_joined_hold_each_by_itself():
    rules = {"a": {"where": "path", "pattern": "(?P<n>x1)"}, "b": {"where": "path", "pattern": "(?P<n>x2)"}}
    wall = firewall({"rules": rules})
    assert [wall.inspect(path, {}).rule for path in ("/x1", "/x2")] == ["a", "b"]


def test_what_blocks_comes_before_what_is_logged():
    rules = {
        "a": {"where": "path", "pattern": "x", "action": "log"},
        "b": {"where": "body", "pattern": "x", "description": "why"},
    }
    finding = firewall({"rules": rules}).inspect("/x", {}, b"x")
    assert (finding.rule, finding.blocks, finding.description) == ("b", True, "why")
    assert not firewall({"rules": rules}).inspect("/x", {}).blocks


def test_in_mode_log_nothing_blocks():
    wall = firewall({"mode": "log", "rules": {"a": {"where": "path", "pattern": "x"}}})
    assert not wall.inspect("/x", {}).blocks


def test_a_firewall_that_is_off_finds_nothing():
    wall = firewall({"enabled": False, "rules": {"a": {"where": "body", "pattern": "x"}}})
    assert wall.inspect("/x", {}, b"x") is None
    assert not wall.looks_at_bodies
