import json

import pytest

from mesh.config.document.tools import ToolRule, Tools
from mesh.errors import InvalidInput
from services.gateway.tools.policy import ToolPolicy


def check(rule, arguments):
    document = Tools.model_validate_json(json.dumps({"rules": {"one": {"arguments": rule}}}))
    rules = ToolPolicy(document).rules_for("server", "tool", ())
    for each in rules.arguments:
        each.check(arguments)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ({"required": True}, [1, None, ""], []),
        ({"forbidden": True}, [], [1, None]),
        ({"pattern": "^/home/"}, ["/home/ada"], ["/etc", "x/home/", 7, None, ["/home/"]]),
        ({"values": ["a", 1, True]}, ["a", 1, True], ["b", 1.0, 2, False, None, ["a"]]),
        ({"max_length": 3}, ["abc", [1, 2, 3], 1234], ["abcd", [1, 2, 3, 4]]),
        ({"minimum": 0, "maximum": 10}, [0, 10, 5.5], [-1, 10.1, "5", True, float("nan"), None]),
    ],
)
def test_an_argument_is_what_a_rule_wants_it_to_be(rule, good, bad):
    for value in good:
        check({"x": rule}, {"x": value})
    for value in bad:
        with pytest.raises(InvalidInput) as found:
            check({"x": rule}, {"x": value})
        assert found.value.field == "params.arguments.x"
        assert found.value.reason == "ARGUMENT_REFUSED"
        assert found.value.fix


def test_only_required_arguments_may_not_be_missing():
    check({"x": {"pattern": "a", "max_length": 1, "minimum": 0}}, {"y": 1})
    with pytest.raises(InvalidInput, match="is missing"):
        check({"x": {"required": True}}, {"y": 1})


def test_dots_lead_into_objects_unless_a_name_has_them():
    rule = {"a.b": {"max_length": 1}}
    check(rule, {"a": {"b": "x"}, "c": 1})
    check(rule, {"a": "text"})
    check(rule, {"a.b": "x", "a": {"b": "long"}})
    with pytest.raises(InvalidInput):
        check(rule, {"a": {"b": "xy"}})


def test_what_was_given_is_not_repeated():
    with pytest.raises(InvalidInput) as found:
        check({"x": {"pattern": "^a$"}}, {"x": "my secret"})
    assert "my secret" not in f"{found.value} {found.value.fix}"


@pytest.mark.parametrize(
    "rule",
    [
        {"arguments": {"x": {"required": True, "forbidden": True}}},
        {"arguments": {"x": {"minimum": 2, "maximum": 1}}},
        {"arguments": {"x": {"pattern": "("}}},
        {"redact": {"x": {"pattern": "("}}},
        {"retry": {"attempts": 1}},
        {"retry": {"attempts": 6}},
        {"timeout": "0s"},
    ],
)
def test_rules_that_make_no_sense_are_refused(rule):
    with pytest.raises(ValueError, match="validation error"):
        ToolRule.model_validate_json(json.dumps(rule))
