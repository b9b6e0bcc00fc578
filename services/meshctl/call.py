"""`meshctl call`: run a tool of an MCP server or a skill of an agent."""

import asyncio
import base64
import difflib
import json
import sys
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.agent import AgentUpdate, Part, TaskState, open_mesh_client
from mesh.config import MeshSettings
from mesh.errors import DeadlineExceeded, Internal, MeshError, NotFound
from services.meshctl.amount import Amount
from services.meshctl.connection import find_service, list_services
from services.meshctl.credentials import edge_way, open_service
from services.meshctl.inspect import check_kind, read_card, read_tools
from services.meshctl.output import output_option, parse_arguments, print_json

_MOST_SECONDS = 7 * 24 * 3600.0
_T = TypeVar("_T")


@click.command()
@click.argument("service")
@click.argument("name", metavar="TOOL_OR_SKILL")
@click.argument("arguments", nargs=-1)
@click.option(
    "--timeout", type=Amount(_MOST_SECONDS), default=60.0, show_default=True, help="Seconds that the call may take."
)
@click.option("--quiet", is_flag=True, help="Print no progress.")
@output_option
@click.pass_obj
def call(
    settings: MeshSettings,
    service: str,
    name: str,
    arguments: tuple[str, ...],
    timeout: float,
    quiet: bool,
    output: str,
) -> None:
    """Run a tool of an MCP server, or a skill of an agent, and print the result.

    ARGUMENTS are one JSON object, @FILE or - (standard input) that holds one, or NAME=VALUE pairs:

        meshctl call financial npv '{"rate": 0.1, "cash_flows": [-100, 60, 60]}'

        meshctl call utilities convert_units value=3 from_unit=mile to_unit=km

    A skill that takes text gets all of them as they are.
    """

    async def run() -> dict[str, Any]:
        found = find_service(await list_services(settings), service)
        check_kind(found, "agent", "mcp")
        if found.kind == "agent":
            part = await _input_part(settings, service, name, arguments)
            return await run_skill(settings, service, name, part, timeout=timeout, quiet=quiet)
        values = parse_arguments(arguments, _read_text)
        return await call_tool(settings, service, name, values, timeout=timeout, quiet=quiet)

    result = asyncio.run(_with_near_names(settings, service, name, run()))
    print_result(result, output)
    if result.get("is_error"):
        raise SystemExit(1)


async def _input_part(settings: MeshSettings, service: str, skill_id: str, words: tuple[str, ...]) -> Part:
    """The words as what the skill takes: text for one that takes nothing else, JSON for any other."""
    card = await read_card(settings, service)
    skill = next((skill for skill in card.skills if skill.id == skill_id), None)
    if skill is None:
        raise NotFound(f"{service} has no skill {skill_id!r}.", reason="UNKNOWN_SKILL", field="skill", service=service)
    if list(skill.input_modes) == ["text/plain"]:
        return Part.of(" ".join(words))
    return Part.of(parse_arguments(words, _read_text))


def _read_text(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text()
    except OSError as err:
        raise click.BadParameter(f"{source}: {err.strerror}.") from err
    except UnicodeDecodeError as err:
        raise click.BadParameter(f"{source} is not text in UTF-8.") from err


async def call_tool(
    settings: MeshSettings, service: str, tool: str, arguments: dict[str, Any], *, timeout: float, quiet: bool = False
) -> dict[str, Any]:
    """Run a tool: {"content": [...], "structured_content": ..., "is_error": bool}."""
    request = mcp_bridge_service_pb2.CallToolRequest(
        name=tool, arguments=json.dumps(arguments).encode(), log_level=mcp_pb2.LOG_LEVEL_WARNING
    )
    try:
        async with open_service(settings, service) as channel:
            bridge = mcp_bridge_service_pb2_grpc.McpBridgeServiceStub(channel)
            async for response in bridge.CallTool(request, timeout=timeout):
                match response.WhichOneof("event"):
                    case "progress" if not quiet:
                        _show_progress(response.progress.message, response.progress.progress, response.progress.total)
                    case "log" if not quiet:
                        click.echo(f"{service}: {response.log.data.decode(errors='replace')}", err=True)
                    case "result":
                        return _result_to_dict(response.result)
    except DeadlineExceeded as err:
        raise DeadlineExceeded(
            f"{tool} of {service} took longer than {timeout:g} s.",
            service=service,
            fix="Give it more time with --timeout, or ask for less.",
        ) from err
    raise Internal(f"{service} ended the call without a result.", service=service, fix="See `meshctl logs`.")


def _result_to_dict(result: mcp_pb2.ToolResult) -> dict[str, Any]:
    structured = json.loads(result.structured_content) if result.structured_content else None
    return {
        "content": [_content_to_dict(content) for content in result.content],
        "structured_content": structured,
        "is_error": result.is_error,
    }


def _content_to_dict(content: mcp_pb2.Content) -> dict[str, Any]:
    kind = content.WhichOneof("kind")
    match kind:
        case "text":
            return {"type": "text", "text": content.text.text}
        case "image" | "audio":
            media = getattr(content, kind)
            data = base64.b64encode(media.data).decode()
            return {"type": kind, "mime_type": media.mime_type, "data": data}
        case "resource":
            return {"type": "resource", "uri": content.resource.uri, "text": content.resource.text}
        case "resource_link":
            return {"type": "resource_link", "uri": content.resource_link.uri}
        case _:
            return {"type": "other", "json": content.other.decode()}


async def run_skill(
    settings: MeshSettings, service: str, skill: str, part: Part, *, timeout: float, quiet: bool = False
) -> dict[str, Any]:
    """Run a skill as a task and wait for its end: {"task": id, "output": [...], "is_error": False}."""

    def on_update(update: AgentUpdate) -> None:
        if not quiet and update.state is TaskState.WORKING:
            _show_progress(update.message, update.progress, 1.0)

    async with open_mesh_client(outbound=await edge_way(settings)) as client:
        result = await client.call_agent(service, skill, part, on_update=on_update, timeout=timeout)
    return {"task": result.task_id, "output": [_part_to_value(part) for part in result.output], "is_error": False}


def _part_to_value(part: Part) -> Any:
    if part.kind == "raw":
        return {"media_type": part.media_type, "data": base64.b64encode(part.content).decode()}
    return part.value


def print_result(result: dict[str, Any], output: str) -> None:
    """Print the structured part of a result, or its text; with `json`, all of it."""
    if output == "json":
        print_json(result)
    elif result.get("structured_content") is not None:
        print_json(result["structured_content"])
    elif "output" in result:
        for value in result["output"]:
            click.echo(value) if isinstance(value, str) else print_json(value)
    else:
        for content in result["content"]:
            click.echo(content.get("text") or json.dumps(content))


def _show_progress(message: str, done: float, total: float) -> None:
    share = f"{done / total:4.0%}" if total else f"{done:g}"
    click.echo(f"{share} {message}".rstrip(), err=True)


async def _with_near_names(settings: MeshSettings, service: str, name: str, work: Coroutine[object, object, _T]) -> _T:
    """Do `work`; when the service does not know `name`, its error tells the names that are nearest."""
    try:
        return await work
    except NotFound as err:
        try:
            known = await _names_of(settings, service)
        except MeshError:
            raise err from None
        if known is None or name in known:
            raise
        near = near_names(name, known)
        raise NotFound(err.summary, reason=err.reason, field=err.field, service=service, fix=near) from err


async def _names_of(settings: MeshSettings, service: str) -> list[str] | None:
    """The skills or the tools of a service; None when there is no such service."""
    kinds = {found.name: found.kind for found in await list_services(settings)}
    if service not in kinds:
        return None
    if kinds[service] == "agent":
        return [skill.id for skill in (await read_card(settings, service)).skills]
    return [tool.name for tool in await read_tools(settings, service)]


def near_names(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest of the known names, or with all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(sorted(names)) or 'none'}."
