"""`meshctl call`: run a tool of an MCP server or a skill of an agent."""

import asyncio
import base64
import difflib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from google.protobuf.duration_pb2 import Duration

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.config import MeshSettings
from mesh.errors import DeadlineExceeded, FailedPrecondition, Internal, MeshError, NotFound, Unavailable
from services.meshctl.connection import find_service, list_services, open_service
from services.meshctl.inspect import read_card, read_tools
from services.meshctl.output import output_option, parse_arguments, print_json

_WATCH_ATTEMPTS = 5


@click.command()
@click.argument("service")
@click.argument("name", metavar="TOOL_OR_SKILL")
@click.argument("arguments", nargs=-1)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds that the call may take.")
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
        if found.kind == "agent":
            part = await _input_part(settings, service, name, arguments)
            return await run_skill(settings, service, name, part, timeout=timeout, quiet=quiet)
        values = parse_arguments(arguments, _read_text)
        return await call_tool(settings, service, name, values, timeout=timeout, quiet=quiet)

    try:
        result = asyncio.run(run())
    except NotFound as err:
        raise asyncio.run(_with_near_names(settings, service, name, err)) from err
    print_result(result, output)
    if result.get("is_error"):
        raise SystemExit(1)


async def _input_part(settings: MeshSettings, service: str, skill_id: str, words: tuple[str, ...]) -> agent_pb2.Part:
    """The words as what the skill takes: text for one that takes nothing else, JSON for any other."""
    card = await read_card(settings, service)
    if any(skill.id == skill_id and list(skill.input_modes) == ["text/plain"] for skill in card.skills):
        return agent_pb2.Part(media_type="text/plain", text=" ".join(words))
    values = parse_arguments(words, _read_text)
    return agent_pb2.Part(media_type="application/json", json=json.dumps(values).encode())


def _read_text(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text()
    except OSError as err:
        raise click.BadParameter(f"{source}: {err.strerror}.") from err


async def call_tool(
    settings: MeshSettings, service: str, tool: str, arguments: dict[str, Any], *, timeout: float, quiet: bool = False
) -> dict[str, Any]:
    """Run a tool: {"content": [...], "structured_content": ..., "is_error": bool}."""
    request = mcp_bridge_service_pb2.CallToolRequest(
        name=tool, arguments=json.dumps(arguments).encode(), log_level=mcp_pb2.LOG_LEVEL_WARNING
    )
    async with open_service(settings, service) as channel:
        bridge = mcp_bridge_service_pb2_grpc.McpBridgeServiceStub(channel)
        async for response in bridge.CallTool(request, timeout=timeout):
            match response.WhichOneof("event"):
                case "progress" if not quiet:
                    _show_progress(response.progress.message, response.progress.progress, response.progress.total)
                case "log" if not quiet:
                    click.echo(f"{service}: {response.log.data.decode()}", err=True)
                case "result":
                    return _result_to_dict(response.result)
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
    settings: MeshSettings, service: str, skill: str, part: agent_pb2.Part, *, timeout: float, quiet: bool = False
) -> dict[str, Any]:
    """Run a skill as a task and wait for its end: {"task": id, "output": [...], "is_error": bool}."""
    limit = Duration()
    limit.FromNanoseconds(int(timeout * 1e9))
    request = agent_service_pb2.SubmitTaskRequest(skill_id=skill, input=[part], timeout=limit)
    async with open_service(settings, service) as channel:
        agent = agent_service_pb2_grpc.AgentServiceStub(channel)
        try:
            async with asyncio.timeout(timeout):
                task = (await agent.SubmitTask(request, timeout=timeout)).task
                outputs, last = await _watch(agent, task.id, quiet=quiet)
        except TimeoutError as err:
            raise DeadlineExceeded(
                f"{skill} took longer than {timeout:g} s.", service=service, fix="Give it more time with --timeout."
            ) from err
    if last.state == agent_pb2.TASK_STATE_FAILED:
        raise FailedPrecondition(
            last.error.summary, reason=last.error.reason, field=last.error.field, fix=last.error.fix, service=service
        )
    return {
        "task": task.id,
        "output": [_part_to_value(part) for part in outputs],
        "is_error": last.state != agent_pb2.TASK_STATE_COMPLETED,
    }


async def _watch(
    agent: "agent_service_pb2_grpc.AgentServiceAsyncStub", task_id: str, *, quiet: bool
) -> tuple[list[agent_pb2.Part], agent_pb2.TaskUpdate]:
    """Follow a task to its end, across broken streams; its output and its last update."""
    outputs: list[agent_pb2.Part] = []
    last = agent_pb2.TaskUpdate()
    for attempt in range(_WATCH_ATTEMPTS):
        request = agent_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=last.sequence)
        try:
            async for response in agent.WatchTask(request):
                last = response.update
                outputs.extend(last.output)
                if not quiet and last.state == agent_pb2.TASK_STATE_WORKING:
                    _show_progress(last.status_message, last.progress, 1.0)
            return outputs, last
        except Unavailable:
            if attempt == _WATCH_ATTEMPTS - 1:
                raise
    return outputs, last


def _part_to_value(part: agent_pb2.Part) -> Any:
    match part.WhichOneof("content"):
        case "json":
            return json.loads(part.json)
        case "text":
            return part.text
        case _:
            return {"media_type": part.media_type, "data": base64.b64encode(part.raw).decode()}


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


async def _with_near_names(settings: MeshSettings, service: str, name: str, err: NotFound) -> MeshError:
    """The same error with the names that are nearest to `name`, when it is that which the service does not know."""
    kinds = {found.name: found.kind for found in await list_services(settings)}
    if service not in kinds:
        return err
    known = (
        [skill.id for skill in (await read_card(settings, service)).skills]
        if kinds[service] == "agent"
        else [tool.name for tool in await read_tools(settings, service)]
    )
    if name in known:
        return err
    return NotFound(err.summary, reason=err.reason, field=err.field, service=service, fix=near_names(name, known))


def near_names(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest of the known names, or with all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(sorted(names)) or 'none'}."
