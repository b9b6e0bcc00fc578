import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.access import ANONYMOUS, AccessRules, Principal, Target, decide, may_see
from mesh.config.document.access import AccessPolicy

CALL = "agentmesh.mcp.v1.McpBridgeService/CallTool"
LINK = "agentmesh.mcp.v1.McpBridgeService/Link"
SUBMIT = "agentmesh.agent.v1.AgentService/SubmitTask"
ADA = Principal("user", "ada", roles=("r",))


def rules(roles, bindings=None):
    return AccessRules(AccessPolicy.model_validate_json(json.dumps({"roles": roles, "bindings": bindings or {}})))


def allows(role, target, principal=ADA):
    return decide(rules({"r": role}), principal, target).is_allowed


@pytest.mark.parametrize(
    ("rule", "target", "expected"),
    [
        ({}, Target("u", CALL, tool="json"), True),
        ({}, Target("u", LINK, tool="*"), True),
        ({"services": ["u"]}, Target("v", CALL, tool="json"), False),
        ({"methods": [CALL]}, Target("u", CALL, tool="json"), True),
        ({"methods": ["agentmesh.mcp.v1.McpBridgeService/*"]}, Target("u", CALL, tool="json"), True),
        ({"methods": ["agentmesh.mcp.v1.McpBridge/*"]}, Target("u", CALL, tool="json"), False),
        ({"methods": ["/docs*"]}, Target("gateway", "/docs/index.html"), True),
        ({"methods": ["/docs"]}, Target("gateway", "/docs/index.html"), False),
        ({"methods": ["/graphql"]}, Target("gateway", "/graphql"), True),
        ({"methods": [f"/{CALL}"]}, Target("u", CALL, tool="json"), True),
        ({"tools": ["json"]}, Target("u", CALL, tool="json"), True),
        ({"tools": ["json"]}, Target("u", CALL, tool="JSON"), False),
        ({"tools": ["json"]}, Target("u", LINK, tool="*"), False),
        ({"tools": ["json"]}, Target("u", "agentmesh.mcp.v1.McpBridgeService/ListTools"), False),
        ({"tools": ["json", "*"]}, Target("u", LINK, tool="*"), True),
        ({"skills": ["risk"]}, Target("a", SUBMIT, skill="risk"), True),
        ({"skills": ["risk"]}, Target("a", SUBMIT, skill="*"), False),
        ({"skills": ["risk"]}, Target("a", "agentmesh.agent.v1.AgentService/GetTask"), False),
        ({"tools": ["json"]}, Target("a", SUBMIT, skill="risk"), False),
    ],
)
def test_a_permission_holds_for_all_of_what_is_asked_for(rule, target, expected):
    assert allows({"allow": [rule]}, target) is expected


@pytest.mark.parametrize(
    ("denial", "target", "expected"),
    [
        ({"tools": ["delete"]}, Target("u", CALL, tool="delete"), False),
        ({"tools": ["delete"]}, Target("u", CALL, tool="json"), True),
        ({"tools": ["delete"]}, Target("u", LINK, tool="*"), False),
        ({"tools": ["delete"]}, Target("u", "agentmesh.mcp.v1.McpBridgeService/ListTools"), True),
        ({"tools": ["delete"], "services": ["v"]}, Target("u", LINK, tool="*"), True),
        ({"skills": ["risk"]}, Target("a", SUBMIT, skill="*"), False),
        ({"skills": ["risk"]}, Target("a", SUBMIT, skill="other"), True),
        ({"methods": [CALL]}, Target("u", "*"), False),
        ({"methods": ["/graphql"]}, Target("gateway", "/graphql"), False),
        ({"services": ["u"]}, Target("u", "anything.C/M"), False),
    ],
)
def test_a_denial_holds_for_any_of_what_is_asked_for(denial, target, expected):
    assert allows({"allow": [{}], "deny": [denial]}, target) is expected


def test_a_refusal_says_whether_a_credential_would_help():
    made = rules({"r": {"deny": [{"services": ["v"]}]}}, {"b": {"anonymous": True, "roles": ["r"]}})
    target = Target("u", CALL, tool="json")
    assert decide(made, ANONYMOUS, target).reason == "NOT_AUTHENTICATED"
    assert decide(made, ANONYMOUS, Target("v", CALL, tool="json")).reason == "NOT_AUTHENTICATED"
    assert decide(made, ADA, target).reason == "NO_RULE"
    assert decide(made, ADA, Target("v", CALL, tool="json")).reason == "DENIED_BY_RULE"


def test_a_decision_names_the_rule():
    made = rules({"r": {"allow": [{"services": ["v"]}, {}], "deny": [{"tools": ["x"]}, {"tools": ["delete"]}]}})
    allowed = decide(made, ADA, Target("u", CALL, tool="json"))
    assert (allowed.reason, allowed.role, allowed.rule) == ("ALLOWED", "r", "r.allow[1]")
    assert allowed.summary == f"user:ada may call u/{CALL}[json] as r."
    denied = decide(made, ADA, Target("u", CALL, tool="delete"))
    assert (denied.reason, denied.role, denied.rule) == ("DENIED_BY_RULE", "r", "r.deny[1]")


@pytest.mark.parametrize(
    "method",
    [
        "/healthz",
        "/readyz",
        "/oauth2/token",
        "/.well-known/jwks.json",
        "/v1/auth/login",
        "grpc.health.v1.Health/Check",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_what_gives_credentials_is_open_to_everybody(method):
    deny_all = rules({"r": {"deny": [{}]}})
    assert decide(deny_all, ANONYMOUS, Target("gateway", method)).reason == "OPEN"
    assert decide(deny_all, ADA, Target("gateway", method)).is_allowed
    assert not decide(deny_all, ANONYMOUS, Target("u", method)).is_allowed


@pytest.mark.parametrize("method", ["/healthz/x", "/oauth2", "/openapi.json", "/graphql", "/v1/auth/login/x", "/"])
def test_nothing_else_is_open(method):
    assert not decide(rules({}), ANONYMOUS, Target("gateway", method)).is_allowed


def test_who_may_call_anything_of_a_service_sees_it():
    made = rules({"r": {"allow": [{"services": ["u"], "tools": ["json"]}, {"services": ["v"]}]}})
    assert [name for name in ("u", "v", "w") if may_see(made, ADA, name)] == ["u", "v"]
    assert not may_see(made, ANONYMOUS, "u")


def test_who_is_denied_all_of_a_service_does_not_see_it():
    made = rules({"r": {"allow": [{}], "deny": [{"services": ["u"]}, {"services": ["v"], "tools": ["x"]}]}})
    assert [name for name in ("u", "v", "w") if may_see(made, ADA, name)] == ["v", "w"]


SERVICES, METHODS, TOOLS = ("a", "b"), (CALL, LINK, "x.Y/Z"), ("t1", "t2")


def some(names):
    return st.lists(st.sampled_from(("*", *names)), min_size=1, max_size=2)


RULE = st.fixed_dictionaries(
    {},
    optional={"services": some(SERVICES), "methods": some((*METHODS, "x.Y/*")), "tools": some(TOOLS)},
)
ROLE = st.fixed_dictionaries({"allow": st.lists(RULE, max_size=3), "deny": st.lists(RULE, max_size=2)})
ROLES = st.dictionaries(st.sampled_from(("r", "s", "t")), ROLE, max_size=3)
TARGET = st.builds(
    Target, st.sampled_from(SERVICES), st.sampled_from(METHODS), st.sampled_from(("", "*", *TOOLS, "other"))
)
PRINCIPAL = st.builds(
    Principal, st.just("user"), st.just("ada"), roles=st.lists(st.sampled_from("rstu"), max_size=4).map(tuple)
)


def is_about(rule, target, *, wide):
    def has(key, asked, wide_words):
        words = rule.get(key, ["*"])
        return "*" in words or asked in words or (wide_words and asked == "*")

    methods = rule.get("methods", ["*"])
    method = any(m in ("*", target.method) or (m.endswith("/*") and target.method.startswith(m[:-1])) for m in methods)
    tools = rule.get("tools", ["*"])
    tool = has("tools", target.tool, wide) if wide or target.tool != "*" else "*" in tools
    return has("services", target.service, False) and method and tool


@given(ROLES, PRINCIPAL, TARGET)
def test_decisions_are_those_of_the_words_of_the_document(roles, principal, target):
    own = [roles[name] for name in set(principal.roles) if name in roles]
    denied = any(is_about(rule, target, wide=True) for role in own for rule in role["deny"])
    allowed = any(is_about(rule, target, wide=False) for role in own for rule in role["allow"])
    assert decide(rules(roles), principal, target).is_allowed is (allowed and not denied)


@given(ROLES, PRINCIPAL, TARGET, st.sampled_from("rst"), RULE)
def test_one_more_denial_never_allows(roles, principal, target, name, denial):
    role = roles.get(name, {"allow": [], "deny": []})
    more = roles | {name: {"allow": role["allow"], "deny": [denial, *role["deny"]]}}
    before = decide(rules(roles), principal, target).is_allowed
    assert before or not decide(rules(more), principal, target).is_allowed


@given(ROLES, PRINCIPAL, TARGET, st.sampled_from("rst"), RULE)
def test_one_more_permission_never_refuses(roles, principal, target, name, permission):
    role = roles.get(name, {"allow": [], "deny": []})
    more = roles | {name: {"allow": [permission, *role["allow"]], "deny": role["deny"]}}
    before = decide(rules(roles), principal, target).is_allowed
    assert not before or decide(rules(more), principal, target).is_allowed


@given(ROLES, PRINCIPAL, TARGET)
def test_the_order_does_not_matter(roles, principal, target):
    turned = {
        name: {side: list(reversed(found)) for side, found in role.items()} for name, role in reversed(roles.items())
    }
    other = Principal("user", "ada", roles=tuple(reversed(principal.roles)))
    assert decide(rules(roles), principal, target).is_allowed is decide(rules(turned), other, target).is_allowed


@given(ROLES, PRINCIPAL, TARGET)
def test_who_may_call_something_of_a_service_without_denials_sees_it(roles, principal, target):
    made = rules({name: role | {"deny": []} for name, role in roles.items()})
    assert not decide(made, principal, target).is_allowed or may_see(made, principal, target.service)


@given(ROLES, PRINCIPAL, st.lists(TARGET, min_size=1, max_size=8))
def test_what_is_kept_decides_as_what_is_new(roles, principal, targets):
    kept = rules(roles)
    assert [decide(kept, principal, it) for it in [*targets, *targets]] == [
        decide(rules(roles), principal, it) for it in [*targets, *targets]
    ]
