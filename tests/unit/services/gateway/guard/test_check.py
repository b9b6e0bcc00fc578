import json

import pytest

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as mcp
from mesh.access import AccessRules
from mesh.access.firewall import Firewall
from mesh.config.document.access import AccessPolicy
from mesh.config.document.edge import Firewall as FirewallPolicy
from services.gateway.guard.admission import Admission
from services.gateway.guard.check import Guard
from services.gateway.guard.messages import AUTHORIZATION, message
from services.gateway.guard.view import AccessView

CALL = "/agentmesh.mcp.v1.McpBridgeService/CallTool"
ACCESS = {
    "roles": {"most": {"allow": [{}], "deny": [{"tools": ["delete"]}]}},
    "bindings": {"all": {"anonymous": True, "roles": ["most"]}},
}
FIREWALL = {
    "rules": {
        "evil": {"where": "body", "pattern": "evil"},
        "odd": {"where": "query", "pattern": "odd", "action": "log"},
    }
}


class Signer:
    def sign(self, key, claims):
        return f"token of {claims['sub']}"


def parsed(model, value):
    return model.model_validate_json(json.dumps(value))


@pytest.fixture
def noted():
    return []


@pytest.fixture
def guard(noted):
    view = AccessView(
        rules=AccessRules(parsed(AccessPolicy, ACCESS)), firewall=Firewall(parsed(FirewallPolicy, FIREWALL))
    )
    return Guard(Admission(lambda: view, Signer(), noted.append))


def call(tool="json", arguments=b"{}"):
    data = mcp.CallToolRequest(name=tool, arguments=arguments).SerializeToString()
    return b"\x00" + len(data).to_bytes(4) + data


def question(path=CALL, body=b"", service="utilities", **headers):
    request = message(f"{AUTHORIZATION}.CheckRequest")()
    http = request.attributes.request.http
    http.path, http.raw_body = path, body
    http.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    facts = request.attributes.route_metadata_context.filter_metadata["mesh"]
    facts.update({"service": service})
    return request


def status_of(response):
    return response.denied_response.status.code if response.status.code else 200


@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/grpc+x", "application/protofoo", "text/plain", "application/json", ""],
)
def test_a_denied_tool_is_denied_whatever_the_content_is_said_to_be(guard, noted, content_type):
    assert status_of(guard.answer(question(body=call("json"), content_type=content_type))) == 200
    assert status_of(guard.answer(question(body=call("delete"), content_type=content_type))) == 401
    assert [it.target.tool for it in noted] == ["json", "delete"]


@pytest.mark.parametrize("path", [f"/{CALL}", "/x/.." + CALL, CALL.replace("Tool", "%54ool"), f"{CALL}?x=1"])
def test_a_denied_tool_is_denied_however_its_path_is_spelled(guard, path):
    assert status_of(guard.answer(question(path, call("delete"), content_type="application/grpc"))) == 401


def test_a_message_that_is_compressed_asks_for_every_tool(guard, noted):
    body = b"\x01" + call("json")[1:]
    assert status_of(guard.answer(question(body=body, content_type="application/grpc"))) == 401
    assert noted[0].target.tool == "*"


def test_arguments_are_looked_at_by_the_firewall(guard, noted):
    arguments = b'{"a": "\\ud800 \\u0065vil"}'
    assert status_of(guard.answer(question(body=call("json", arguments), content_type="application/grpc"))) == 403
    assert (noted[0].decision, noted[0].rule) == ("blocked", "evil")


def test_what_is_only_logged_goes_on_and_is_noted(guard, noted):
    request = question("/graphql?a=odd", service="gateway", content_type="application/json")
    assert status_of(guard.answer(request)) == 200
    assert [(it.decision, it.reason) for it in noted] == [("allowed", "FIREWALL"), ("allowed", "ALLOWED")]


async def test_the_token_for_services_has_the_roles_that_come_from_claims(noted):
    access = {
        "roles": {"most": {"allow": [{}]}, "few": {"allow": [{"services": ["utilities"]}]}},
        "bindings": {
            "staff": {"issuer": "corp", "claims": {"groups": {"exact": "staff"}}, "roles": ["most"]},
            "all": {"authenticated": True, "roles": ["few"]},
        },
    }
    view = AccessView(rules=AccessRules(parsed(AccessPolicy, access)))
    signed = []

    class Noting:
        def sign(self, key, claims):
            signed.append((key, claims["roles"]))
            return "token"

    guard = Guard(Admission(lambda: view, Noting(), noted.append))
    for groups in (["staff"], ["guests"]):
        asked = question(body=call(), content_type="application/grpc")
        tokens = asked.attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]
        tokens.update({"issuer.corp": {"sub": "ada", "groups": groups}})
        guard.answer(asked)
    assert [roles for _, roles in signed] == [["few", "most"], ["few"]]
    assert signed[0][0] != signed[1][0], "or the one would get the token of the other"
