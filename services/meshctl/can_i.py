"""`meshctl can-i`: what somebody may call, by the same function that decides at the edge."""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import click
import yaml

from agentmesh.access.v1 import access_pb2
from agentmesh.access.v1 import access_service_pb2 as pb
from agentmesh.config.v1 import config_service_pb2, config_service_pb2_grpc
from mesh.access import ANONYMOUS, AccessRules, Decision, Principal, Target, decide
from mesh.access.target import ANYTHING
from mesh.access.target_of import METHODS_OF_SKILLS, METHODS_OF_TOOLS
from mesh.config import MeshSettings
from mesh.config.document.access import AccessPolicy
from mesh.errors import InvalidInput, NotFound
from mesh.rpc.contracts import PUBLIC
from services.meshctl.connection import TIMEOUT, open_admin
from services.meshctl.keys import open_access
from services.meshctl.output import output_option, show

_CONTRACTS = {method.name: service.full_name for service in PUBLIC for method in service.methods}
"""The contracts by the names of their methods, which are all different."""


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
    name such as CallTool, or a path; without it all of SERVICE is meant. Exit status 0: yes, 1: no.
    """
    settings: MeshSettings = context.obj

    async def read() -> tuple[AccessRules, Principal, Decision | None]:
        async with open_admin(settings) as channel:
            stub = config_service_pb2_grpc.ConfigServiceStub(channel)
            found = await stub.GetDocument(config_service_pb2.GetDocumentRequest(), timeout=TIMEOUT)
        rules = AccessRules(parse_access(found.document))
        return rules, *(await _find(settings, who, roles, dict(_pair(claim) for claim in claims)))

    rules, principal, refusal = asyncio.run(read())
    target = target_for(service, method, tool, skill)
    decision = refusal or decide(rules, principal, target)
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


def parse_access(document: str) -> AccessPolicy:
    """The part `access` of a mesh document in YAML."""
    whole = yaml.safe_load(document) or {}
    return AccessPolicy.model_validate_json(json.dumps(whole.get("access") or {}))


def target_for(service: str, method: str, tool: str, skill: str) -> Target:
    """What a call asks for; one of tools without a tool asks for all of them, and so for skills."""
    if method == ANYTHING and (tool or skill):
        method = "CallTool" if tool else "SubmitTask"
    full = f"{_CONTRACTS[method]}/{method}" if method in _CONTRACTS else method
    if full in (*METHODS_OF_TOOLS, ANYTHING):
        tool = tool or ANYTHING
    if full in (*METHODS_OF_SKILLS, ANYTHING):
        skill = skill or ANYTHING
    return Target(service, full, tool, skill)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(f"{text!r} is no claim.", field="claim", fix="Write NAME=VALUE.")
    return name, value


async def _find(
    settings: MeshSettings, who: str, roles: tuple[str, ...], claims: dict[str, Any]
) -> tuple[Principal, Decision | None]:
    """Who is meant, and why the credential does not hold, if it does not."""
    principal = parse_who(who, roles, claims)
    if principal.kind not in ("user", "key"):
        return principal, None
    async with open_access(settings) as access:
        if principal.kind == "user":
            users = (await access.ListUsers(pb.ListUsersRequest(), timeout=TIMEOUT)).users
            user = next((it for it in users if it.name == principal.name), None)
            if user is not None:
                return _with(principal, user.roles), refusal_of_user(user)
        else:
            keys = (await access.ListKeys(pb.ListKeysRequest(), timeout=TIMEOUT)).keys
            key = next((it for it in keys if it.id == principal.name), None)
            if key is not None:
                return _with(principal, key.roles), refusal_of_key(key, now=time.time())
    raise NotFound(
        f"There is no {principal.kind} {principal.name!r}.",
        field="who",
        fix=f"`meshctl {principal.kind}s list` has them.",
    )


def parse_who(who: str, roles: tuple[str, ...], claims: dict[str, Any]) -> Principal:
    """The principal that is meant. Raises InvalidInput when it is none."""
    if who == "anonymous":
        return ANONYMOUS
    if who.startswith("spiffe://"):
        return Principal("service", who, roles=roles)
    kind, _, name = who.partition(":")
    if kind == "token":
        issuer, _, subject = name.partition("/")
        if issuer and subject:
            return Principal("token", subject, issuer=issuer, roles=roles, claims={"sub": subject} | claims)
    elif kind == "user" and name:
        return Principal("user", name, roles=roles, claims=claims)
    elif kind == "key" and name:
        return Principal("key", name, roles=roles, claims=claims)
    raise InvalidInput(
        f"{who!r} is nobody.",
        field="who",
        fix="Write anonymous, user:NAME, key:ID, token:ISSUER/SUBJECT or a SPIFFE id.",
    )


def _with(principal: Principal, roles: Iterable[str]) -> Principal:
    return replace(principal, roles=(*roles, *principal.roles))


def refusal_of_user(user: access_pb2.User) -> Decision | None:
    """Why a user is refused whatever it calls; None when it is not."""
    return Decision(False, "USER_DISABLED", f"The user {user.name} may not log in.") if user.disabled else None


def refusal_of_key(key: access_pb2.ApiKey, *, now: float) -> Decision | None:
    """Why a key is refused whatever it calls; None when it is not. `now` is in seconds since 1970."""
    if key.HasField("revoke_time"):
        return Decision(False, "KEY_REVOKED", f"The API key {key.id} was revoked.")
    if key.HasField("expire_time") and now >= key.expire_time.seconds:
        return Decision(False, "KEY_EXPIRED", f"The API key {key.id} has ended.")
    return None
