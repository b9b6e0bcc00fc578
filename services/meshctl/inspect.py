"""Commands that look: certs, tools, agents."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.control.v1 import control_pb2, control_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition, MeshError
from services.meshctl.connection import (
    TIMEOUT,
    find_service,
    list_services,
    open_control,
)
from services.meshctl.credentials import open_service
from services.meshctl.failures import exit_status_of, print_errors
from services.meshctl.output import ago, output_option, print_table, show
from services.meshctl.pins import print_pins, show_changes

_T = TypeVar("_T")


@click.group(invoke_without_command=True)
@output_option
@click.pass_context
def certs(context: click.Context, output: str) -> None:
    """Show the certificates that have not ended; the commands below are about roots and revoked identities."""
    if context.invoked_subcommand is not None:
        return
    settings: MeshSettings = context.obj

    async def read() -> list[control_pb2.Certificate]:
        async with open_control(settings) as control:
            response = await control.ListCertificates(control_service_pb2.ListCertificatesRequest(), timeout=TIMEOUT)
            return list(response.certificates)

    found = asyncio.run(read())
    rows = [
        (
            certificate.spiffe_id,
            certificate.serial[:8],
            certificate.reason,
            ago(_moment(certificate, "issue_time")),
            ago(_moment(certificate, "expire_time")),
        )
        for certificate in found
    ]
    show(
        output,
        [MessageToDict(certificate, preserving_proto_field_name=True) for certificate in found],
        lambda: print_table(("identity", "serial", "signed for", "age", "ends"), rows, empty="No certificates."),
    )


def _moment(message: control_pb2.Certificate, field: str) -> datetime | None:
    if not message.HasField(field):  # type: ignore[arg-type]
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)


async def read_tools(settings: MeshSettings, service: str) -> list[mcp_pb2.Tool]:
    """All tools of one MCP server of the mesh."""
    tools: list[mcp_pb2.Tool] = []
    async with open_service(settings, service) as channel:
        bridge = mcp_bridge_service_pb2_grpc.McpBridgeServiceStub(channel)
        page = ""
        while True:
            request = mcp_bridge_service_pb2.ListToolsRequest(page_token=page)
            response = await bridge.ListTools(request, timeout=TIMEOUT)
            tools.extend(response.tools)
            page = response.next_page_token
            if not page:
                return tools


async def read_card(settings: MeshSettings, service: str) -> agent_pb2.AgentCard:
    """The card of one agent of the mesh."""
    async with open_service(settings, service) as channel:
        agent = agent_service_pb2_grpc.AgentServiceStub(channel)
        response = await agent.GetAgentCard(agent_service_pb2.GetAgentCardRequest(), timeout=TIMEOUT)
        return response.card


async def _names_of_kind(settings: MeshSettings, kind: str, name: str | None) -> list[str]:
    services = await list_services(settings)
    if name is not None:
        found = find_service(services, name)
        check_kind(found, kind)
        return [found.name]
    return [s.name for s in services if s.kind == kind and any(instance.healthy for instance in s.instances)]


async def read_each(
    names: Sequence[str], read: Callable[[str], Awaitable[_T]]
) -> tuple[dict[str, _T], list[MeshError]]:
    """What each service answers, and the errors of those that do not: one that hangs must not hide the others."""
    answers = await asyncio.gather(*(read(name) for name in names), return_exceptions=True)
    found: dict[str, _T] = {}
    errors: list[MeshError] = []
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, MeshError):
            answer.summary = f"{name} does not answer as it should: {answer.summary}"
            errors.append(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[name] = answer
    return found, errors


def _end_with(errors: list[MeshError]) -> None:
    if errors:
        print_errors(errors)
        raise SystemExit(exit_status_of(errors))


def check_kind(service: control_pb2.Service, *kinds: str) -> None:
    """Raise FailedPrecondition that says what to do with a service of another kind."""
    if service.kind in kinds:
        return
    fixes = {
        "agent": f"See its skills with `meshctl agents {service.name}`.",
        "mcp": f"See its tools with `meshctl tools {service.name}`.",
    }
    raise FailedPrecondition(
        f"{service.name} is of kind {service.kind}, not {' or '.join(kinds)}.",
        reason="WRONG_KIND",
        field="service",
        service=service.name,
        fix=fixes.get(service.kind, "Call it with its own stubs, or with `buf curl` through the gateway."),
    )


@click.command()
@click.argument("service", required=False)
@click.option("--pin", is_flag=True, help="Write the part of a mesh document that approves the tools as they are.")
@click.option("--changed", is_flag=True, help="Show what is not as it was approved; exit status 1 when anything is.")
@output_option
@click.pass_context
def tools(context: click.Context, service: str | None, pin: bool, changed: bool, output: str) -> None:
    """Show the tools of all MCP servers, or of SERVICE.

    Tools that were approved are pinned by the part `tools.pins` of the mesh document:

        meshctl tools SERVICE --pin > pins.yaml     read it, and add it to the document

        meshctl tools SERVICE --changed             what has changed since
    """
    settings: MeshSettings = context.obj

    async def read() -> tuple[dict[str, list[mcp_pb2.Tool]], list[MeshError]]:
        names = await _names_of_kind(settings, "mcp", service)
        return await read_each(names, lambda name: read_tools(settings, name))

    found, errors = asyncio.run(read())
    if pin:
        print_pins(found)
        _end_with(errors)
        return
    if changed:
        status = show_changes(settings, found, is_one=service is not None, output=output)
        _end_with(errors)
        context.exit(status)
    rows = [(name, tool.name, _first_sentence(tool.description)) for name, listed in found.items() for tool in listed]
    value = {
        name: [MessageToDict(tool, preserving_proto_field_name=True) | _schemas(tool) for tool in listed]
        for name, listed in found.items()
    }
    show(output, value, lambda: print_table(("service", "tool", "what it does"), rows, empty="No tools."))
    _end_with(errors)


def _schemas(tool: mcp_pb2.Tool) -> dict[str, object]:
    schemas = {"input_schema": tool.input_schema, "output_schema": tool.output_schema}
    return {name: text.decode() for name, text in schemas.items() if text}


@click.command()
@click.argument("name", required=False)
@output_option
@click.pass_obj
def agents(settings: MeshSettings, name: str | None, output: str) -> None:
    """Show the agents of the mesh and their skills, or those of NAME."""

    async def read() -> tuple[dict[str, agent_pb2.AgentCard], list[MeshError]]:
        names = await _names_of_kind(settings, "agent", name)
        return await read_each(names, lambda found: read_card(settings, found))

    found, errors = asyncio.run(read())
    cards = list(found.values())
    rows = [
        (card.name if position == 0 else "", skill.id, _first_sentence(skill.description))
        for card in cards
        for position, skill in enumerate(card.skills)
    ]
    value = [
        MessageToDict(card, preserving_proto_field_name=True)
        | {"skills": [_skill_to_dict(skill) for skill in card.skills]}
        for card in cards
    ]
    show(output, value, lambda: print_table(("agent", "skill", "what it does"), rows, empty="No agents."))
    _end_with(errors)


def _skill_to_dict(skill: agent_pb2.Skill) -> dict[str, object]:
    schemas = {"input_schema": skill.input_schema, "output_schema": skill.output_schema}
    texts = {name: text.decode() for name, text in schemas.items() if text}
    return MessageToDict(skill, preserving_proto_field_name=True) | texts


def _first_sentence(text: str) -> str:
    return text.strip().split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
