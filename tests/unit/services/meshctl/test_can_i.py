import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.access.v1 import access_pb2
from mesh.access import Principal, Target
from mesh.errors import InvalidInput
from services.meshctl.can_i import parse_access, parse_who, refusal_of_key, refusal_of_user, target_for

CALL = "agentmesh.mcp.v1.McpBridgeService/CallTool"


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        (("u", "CallTool", "json", ""), Target("u", CALL, "json")),
        (("u", "CallTool", "", ""), Target("u", CALL, "*")),
        (("u", CALL, "", ""), Target("u", CALL, "*")),
        (("u", "*", "json", ""), Target("u", CALL, "json")),
        (("u", "Link", "", ""), Target("u", "agentmesh.mcp.v1.McpBridgeService/Link", "*")),
        (("a", "*", "", "risk"), Target("a", "agentmesh.agent.v1.AgentService/SubmitTask", "", "risk")),
        (("a", "Converse", "", ""), Target("a", "agentmesh.agent.v1.AgentService/Converse", "", "*")),
        (("u", "ListTools", "", ""), Target("u", "agentmesh.mcp.v1.McpBridgeService/ListTools")),
        (("gateway", "ListServices", "", ""), Target("gateway", "agentmesh.gateway.v1.CatalogService/ListServices")),
        (("gateway", "/graphql", "", ""), Target("gateway", "/graphql")),
        (("u", "acme.v1.S/M", "", ""), Target("u", "acme.v1.S/M")),
        (("u", "*", "", ""), Target("u", "*", "*", "*")),
    ],
)
def test_a_call_is_named_in_short(asked, target):
    assert target_for(*asked) == target


@pytest.mark.parametrize(
    ("who", "principal"),
    [
        ("anonymous", Principal("anonymous")),
        ("user:ada", Principal("user", "ada", roles=("r",))),
        ("key:am_3f9c2a7b51d0", Principal("key", "am_3f9c2a7b51d0", roles=("r",))),
        ("token:corp/ada@x.org", Principal("token", "ada@x.org", issuer="corp", roles=("r",))),
        ("spiffe://mesh/ns/default/sa/x", Principal("service", "spiffe://mesh/ns/default/sa/x", roles=("r",))),
    ],
)
def test_somebody_is_named(who, principal):
    assert parse_who(who, ("r",), {}) == principal


def test_a_token_has_its_subject_as_a_claim():
    assert parse_who("token:corp/ada", (), {"team": "ml"}).claims == {"sub": "ada", "team": "ml"}


@pytest.mark.parametrize("who", ["", "ada", "user:", "key:", "token:corp", "token:/x", "token:corp/", "service:x"])
def test_nobody_is_refused(who):
    with pytest.raises(InvalidInput, match="is nobody"):
        parse_who(who, (), {})


def test_the_rules_are_those_of_the_document():
    assert "r" in parse_access("access: {roles: {r: {allow: [{tools: [x]}]}}}\nmesh: {}\n").roles
    assert not parse_access("").roles


def test_a_credential_that_does_not_hold_is_told():
    assert refusal_of_user(access_pb2.User(name="ada")) is None
    assert refusal_of_user(access_pb2.User(name="ada", disabled=True)).reason == "USER_DISABLED"
    key = access_pb2.ApiKey(id="am_1", expire_time=Timestamp(seconds=100))
    assert refusal_of_key(key, now=99.0) is None
    assert refusal_of_key(key, now=100.0).reason == "KEY_EXPIRED"
    key.revoke_time.GetCurrentTime()
    assert refusal_of_key(key, now=99.0).reason == "KEY_REVOKED"
