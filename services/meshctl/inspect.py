"""Commands that look: status, proxies, certs, tools, agents."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.control.v1 import control_pb2, control_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.config import MeshSettings
from services.meshctl.connection import (
    TIMEOUT,
    RunningMesh,
    find_service,
    list_services,
    open_control,
    open_service,
)
from services.meshctl.output import ago, output_option, print_table, shorten, show

INTERNAL_SERVICES = frozenset({"consul", "control-plane"})


def is_ready(services: Sequence[control_pb2.Service], expected: Sequence[str]) -> bool:
    """True when all expected services have instances and every instance of every service is healthy."""
    instances = {service.name: list(service.instances) for service in services}
    return all(instances.get(name) for name in expected) and all(
        instance.healthy for found in instances.values() for instance in found
    )


async def read_status(settings: MeshSettings) -> dict[str, object]:
    """The answer of `meshctl status --output json`."""
    running = RunningMesh.load(settings)
    expected = running.services if running else ()
    async with open_control(settings) as control:
        mesh = await control.GetMesh(control_service_pb2.GetMeshRequest(), timeout=TIMEOUT)
        found = await control.ListServices(control_service_pb2.ListServicesRequest(), timeout=TIMEOUT)
    services = [service for service in found.services if service.instances or service.name in expected]
    return {
        "ready": mesh.registry_available and is_ready(services, expected),
        "version": mesh.version,
        "trust_domain": mesh.trust_domain,
        "registry": {
            "kind": mesh.registry,
            "address": mesh.registry_address,
            "available": mesh.registry_available,
            "error": mesh.registry_error,
        },
        "services": [
            {
                "name": service.name,
                "kind": service.kind,
                "instances": len(service.instances),
                "healthy": sum(instance.healthy for instance in service.instances),
                "addresses": [f"{instance.address}:{instance.port}" for instance in service.instances],
                "capabilities": sorted({name for instance in service.instances for name in instance.capabilities}),
                "upstreams": list(service.upstreams),
            }
            for service in services
        ],
        "endpoints": running.endpoints if running else {},
    }


@click.command()
@output_option
@click.pass_obj
def status(settings: MeshSettings, output: str) -> None:
    """Show whether the mesh is ready, its services and where it is reached."""
    facts = asyncio.run(read_status(settings))

    def render() -> None:
        click.echo(f"{'ready' if facts['ready'] else 'NOT READY'}  (agentmesh {facts['version']})")
        render_services(facts["services"])
        registry = facts["registry"]
        assert isinstance(registry, dict)
        if not registry["available"]:
            click.echo(f"{registry['kind']} at {registry['address']} does not answer: {registry['error']}")
        render_endpoints(facts["endpoints"])

    show(output, facts, render)
    if not facts["ready"]:
        raise SystemExit(1)


def render_services(services: object) -> None:
    """Print the services of `read_status` as a table."""
    assert isinstance(services, list)
    rows = [
        (
            service["name"],
            service["kind"],
            f"{service['healthy']}/{service['instances']}",
            ", ".join(service["addresses"]) or "-",
            shorten(service["capabilities"]) or "-",
        )
        for service in services
    ]
    print_table(("service", "kind", "healthy", "address (mTLS)", "skills and tools"), rows, empty="No services.")


def render_endpoints(endpoints: object) -> None:
    """Print where the mesh is reached."""
    assert isinstance(endpoints, dict)
    print_table(("endpoint", "where"), sorted(endpoints.items()), empty="No endpoints are written down.")


@click.command()
@output_option
@click.pass_obj
def proxies(settings: MeshSettings, output: str) -> None:
    """Show the connected proxies and what configuration each has accepted."""

    async def read() -> list[control_pb2.Proxy]:
        async with open_control(settings) as control:
            response = await control.ListProxies(control_service_pb2.ListProxiesRequest(), timeout=TIMEOUT)
            return list(response.proxies)

    found = asyncio.run(read())
    rows = [
        (
            proxy.node_id if position == 0 else "",
            resources.type,
            resources.subscribed,
            resources.sent_version[:8] or "-",
            resources.acked_version[:8] or "-",
            ago(_moment(resources, "ack_time")),
            resources.nack_message or "-",
        )
        for proxy in found
        for position, resources in enumerate(proxy.resources)
    ]
    columns = ("proxy", "type", "resources", "sent", "accepted", "ago", "last refusal")
    show(
        output,
        [MessageToDict(proxy, preserving_proto_field_name=True) for proxy in found],
        lambda: print_table(columns, rows, empty="No proxy is connected."),
    )


@click.command()
@output_option
@click.pass_obj
def certs(settings: MeshSettings, output: str) -> None:
    """Show the certificates that have not ended."""

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


def _moment(message: control_pb2.ProxyResources | control_pb2.Certificate, field: str) -> datetime | None:
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
        return [find_service(services, name).name]
    return [s.name for s in services if s.kind == kind and any(instance.healthy for instance in s.instances)]


@click.command()
@click.argument("service", required=False)
@output_option
@click.pass_obj
def tools(settings: MeshSettings, service: str | None, output: str) -> None:
    """Show the tools of all MCP servers, or of SERVICE."""

    async def read() -> dict[str, list[mcp_pb2.Tool]]:
        names = await _names_of_kind(settings, "mcp", service)
        found = await asyncio.gather(*(read_tools(settings, name) for name in names))
        return dict(zip(names, found, strict=True))

    found = asyncio.run(read())
    rows = [(name, tool.name, _first_sentence(tool.description)) for name, listed in found.items() for tool in listed]
    value = {
        name: [MessageToDict(tool, preserving_proto_field_name=True) | _schemas(tool) for tool in listed]
        for name, listed in found.items()
    }
    show(output, value, lambda: print_table(("service", "tool", "what it does"), rows, empty="No tools."))


def _schemas(tool: mcp_pb2.Tool) -> dict[str, object]:
    schemas = {"input_schema": tool.input_schema, "output_schema": tool.output_schema}
    return {name: text.decode() for name, text in schemas.items() if text}


@click.command()
@click.argument("name", required=False)
@output_option
@click.pass_obj
def agents(settings: MeshSettings, name: str | None, output: str) -> None:
    """Show the agents of the mesh and their skills, or those of NAME."""

    async def read() -> list[agent_pb2.AgentCard]:
        names = await _names_of_kind(settings, "agent", name)
        return list(await asyncio.gather(*(read_card(settings, found) for found in names)))

    cards = asyncio.run(read())
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


def _skill_to_dict(skill: agent_pb2.Skill) -> dict[str, object]:
    schemas = {"input_schema": skill.input_schema, "output_schema": skill.output_schema}
    texts = {name: text.decode() for name, text in schemas.items() if text}
    return MessageToDict(skill, preserving_proto_field_name=True) | texts


def _first_sentence(text: str) -> str:
    return text.strip().split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
