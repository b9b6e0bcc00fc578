"""`meshctl can-i`: what somebody may call, by the same function that decides at the edge."""

import asyncio
import json
from typing import Any

import click
import yaml

from agentmesh.access.v1 import access_service_pb2 as pb
from agentmesh.config.v1 import config_service_pb2, config_service_pb2_grpc
from mesh.access import ANONYMOUS, AccessRules, Principal, Target, decide
from mesh.config import MeshSettings
from mesh.config.document import MeshDocument
from mesh.errors import InvalidInput, NotFound
from services.meshctl.connection import TIMEOUT, open_admin
from services.meshctl.keys import open_access
from services.meshctl.output import output_option, show

_KINDS = ("user", "key", "token", "service")


@click.command("can-i")
@click.argument("who")
@click.argument("service")
@click.argument("method", default="*")
@click.option("--tool", default="", help="A tool of an MCP server.")
@click.option("--skill", default="", help="A skill of an agent.")
@click.option("--role", "roles", multiple=True, help="A role beside those that WHO has; may be repeated.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="A claim of the token; may be repeated.")
@output_option
@click.pass_context
def can_i(
    context: click.Context,
    who: str,
    service: str,
    method: str,
    tool: str,
    skill: str,
    roles: tuple[str, ...],
    claims: tuple[str, ...],
    output: str,
) -> None:
    """Tell whether WHO may call METHOD of SERVICE, and why.

    WHO is anonymous, user:NAME, key:ID, token:ISSUER/SUBJECT or a SPIFFE id. METHOD is PACKAGE.SERVICE/METHOD, a short
    name such as CallTool, or a path of the gateway. Exit status 0: yes, 1: no.
    """
    settings: MeshSettings = context.obj

    async def read() -> tuple[MeshDocument, Principal]:
        async with open_admin(settings) as channel:
            stub = config_service_pb2_grpc.ConfigServiceStub(channel)
            found = await stub.GetDocument(config_service_pb2.GetDocumentRequest(), timeout=TIMEOUT)
        document = MeshDocument.model_validate_json(_json(found.document))
        return document, await _principal(settings, who, roles, dict(_pair(claim) for claim in claims))

    document, principal = asyncio.run(read())
    target = Target(service, _method(method, tool, skill), tool, skill)
    decision = decide(AccessRules(document.access), principal, target)
    facts = {
        "allowed": decision.is_allowed,
        "reason": decision.reason,
        "summary": decision.summary,
        "role": decision.role,
        "rule": decision.rule,
        "principal": str(principal),
        "target": str(target),
    }

    def render() -> None:
        rule = f" ({decision.rule})" if decision.rule else ""
        click.echo(f"{'yes' if decision.is_allowed else 'no'}: {decision.summary}{rule}")

    show(output, facts, render)
    context.exit(0 if decision.is_allowed else 1)


def _json(text: str) -> str:
    return json.dumps(yaml.safe_load(text) or {})


def _method(method: str, tool: str, skill: str) -> str:
    known = {
        "CallTool": "agentmesh.mcp.v1.McpBridgeService/CallTool",
        "InvokeTool": "agentmesh.mcp.v1.McpBridgeService/InvokeTool",
        "ListTools": "agentmesh.mcp.v1.McpBridgeService/ListTools",
        "SubmitTask": "agentmesh.agent.v1.AgentService/SubmitTask",
        "GetAgentCard": "agentmesh.agent.v1.AgentService/GetAgentCard",
    }
    if method == "*" and (tool or skill):
        method = "CallTool" if tool else "SubmitTask"
    return known.get(method, method)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(f"{text!r} is no claim.", field="claim", fix="Write NAME=VALUE.")
    return name, value


async def _principal(settings: MeshSettings, who: str, roles: tuple[str, ...], claims: dict[str, Any]) -> Principal:
    if who == "anonymous":
        return ANONYMOUS
    if who.startswith("spiffe://"):
        return Principal("service", who, roles=roles)
    kind, colon, name = who.partition(":")
    if not colon or kind not in _KINDS or not name:
        raise InvalidInput(
            f"{who!r} is nobody.",
            field="who",
            fix="Write anonymous, user:NAME, key:ID, token:ISSUER/SUBJECT or a SPIFFE id.",
        )
    if kind == "token":
        issuer, _, subject = name.partition("/")
        return Principal("token", subject, issuer=issuer, roles=roles, claims=claims)
    async with open_access(settings) as access:
        if kind == "user":
            everybody = (await access.ListUsers(pb.ListUsersRequest(), timeout=TIMEOUT)).users
            own = next((user.roles for user in everybody if user.name == name), None)
        else:
            known = (await access.ListKeys(pb.ListKeysRequest(), timeout=TIMEOUT)).keys
            own = next((key.roles for key in known if key.id == name), None)
    if own is None:
        raise NotFound(f"There is no {kind} {name!r}.", field="who", fix=f"`meshctl {kind}s list` has them.")
    return Principal("user" if kind == "user" else "key", name, roles=(*own, *roles), claims=claims)
