import json

import pytest

from mesh.config.document.tools import Tools
from services.gateway.tools.policy import ToolPolicy


def policy(**parts):
    return ToolPolicy(Tools.model_validate_json(json.dumps(parts)))


def test_without_rules_nothing_holds():
    assert policy().rules_for("server", "tool", ("admin",)) is None
    assert not policy().is_bound("server", "tool", ())
    assert policy().pin_of("server", "tool") is None


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({}, True),
        ({"servers": ["server"]}, True),
        ({"servers": ["other"]}, False),
        ({"tools": ["tool"]}, True),
        ({"tools": ["to*"]}, True),
        ({"tools": ["o*", "tools"]}, False),
        ({"roles": ["caller", "admin"]}, True),
        ({"roles": ["admin"]}, False),
    ],
)
def test_a_rule_is_about_the_calls_that_it_names(rule, fits):
    found = policy(rules={"one": {"timeout": "1s", **rule}}).rules_for("server", "tool", ("caller",))
    assert (found is not None) == fits


def test_all_rules_that_fit_hold_together():
    guardrails = {"a": {"service": "guard"}, "b": {"service": "guard"}}
    rules = {
        "1": {"timeout": "5s", "arguments": {"x": {"required": True}}, "guardrails": ["b"]},
        "2": {"timeout": "2s", "retry": {"attempts": 2}, "guardrails": ["a", "b"]},
        "3": {"redact": {"x": {"pattern": "x"}}, "retry": {"attempts": 5}},
    }
    found = policy(rules=rules, guardrails=guardrails).rules_for("server", "tool", ())
    assert found.timeout == 2
    assert found.retry.attempts == 2
    assert [check.name for check in found.arguments] == ["x"]
    assert len(found.redactions) == 1
    assert [name for name, _ in found.guardrails] == ["b", "a"]


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        ({"timeout": "1s"}, False),
        ({"retry": {}}, False),
        ({"arguments": {"x": {"forbidden": True}}}, True),
        ({"redact": {"x": {"pattern": "x"}}}, True),
        ({"guardrails": ["a"]}, True),
        ({"guardrails": ["a"], "servers": ["other"]}, False),
        ({"guardrails": ["a"], "roles": ["admin"]}, False),
    ],
)
@pytest.mark.parametrize("tool", ["tool", "*"])
def test_what_only_the_doors_of_mcp_can_keep_binds_a_tool_to_them(rule, bound, tool):
    made = policy(rules={"one": rule}, guardrails={"a": {"service": "guard"}})
    assert made.is_bound("server", tool, ("caller",)) == bound


def test_a_pin_that_blocks_binds_all_tools_of_its_server():
    digest = "0" * 32
    made = policy(pins={"server": {"tools": {"tool": digest}}, "other": {"on_change": "flag"}})
    assert made.pin_of("server", "tool") == (digest, "block")
    assert made.pin_of("server", "new") == ("", "block")
    assert made.pin_of("other", "tool") == ("", "flag")
    assert made.is_bound("server", "*", ())
    assert not made.is_bound("other", "*", ())
