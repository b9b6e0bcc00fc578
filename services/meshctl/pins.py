"""Pins of tools: what somebody has approved, and what is another one since."""

import asyncio
from collections.abc import Mapping

import click
import yaml

from agentmesh.config.v1 import config_service_pb2, config_service_pb2_grpc
from agentmesh.mcp.v1 import mcp_pb2
from mesh.config import MeshSettings
from mesh.errors import NotFound
from mesh.mcp.digest import tool_digest
from services.meshctl.connection import TIMEOUT, open_admin
from services.meshctl.output import print_table, show

Listed = Mapping[str, list[mcp_pb2.Tool]]
"""Tools by server."""

Pins = Mapping[str, Mapping[str, str]]
"""Digests by server and tool."""


def print_pins(listed: Listed) -> None:
    """Write the part of a mesh document that approves tools as they are."""
    pins = {server: {"tools": {tool.name: tool_digest(tool) for tool in found}} for server, found in listed.items()}
    click.echo(yaml.safe_dump({"tools": {"pins": pins}}, sort_keys=True), nl=False)


async def read_pins(settings: MeshSettings) -> Pins:
    """The pins of the document in force."""
    async with open_admin(settings) as channel:
        stub = config_service_pb2_grpc.ConfigServiceStub(channel)
        told = await stub.GetDocument(config_service_pb2.GetDocumentRequest(), timeout=TIMEOUT)
    pins = ((yaml.safe_load(told.document) or {}).get("tools") or {}).get("pins") or {}
    return {server: dict(pin.get("tools") or {}) for server, pin in pins.items()}


def show_changes(settings: MeshSettings, listed: Listed, *, is_one: bool, output: str) -> int:
    """Show what is not as it was approved; gives the exit status.

    Raises NotFound when one server was asked about, and it has no pins.
    """
    pins = asyncio.run(read_pins(settings))
    if is_one and not set(listed) & set(pins):
        raise NotFound(
            f"The tools of {', '.join(listed)} are not pinned.",
            field="tools.pins",
            fix="Pin them by `meshctl tools SERVICE --pin`.",
        )
    rows = [
        (server, name, how)
        for server, found in sorted(listed.items())
        if server in pins
        for name, how in changes_of(pins[server], found)
    ]
    value = [{"server": server, "tool": name, "change": how} for server, name, how in rows]
    show(output, value, lambda: print_table(("service", "tool", "change"), rows, empty="All is as it was approved."))
    return int(bool(rows))


def changes_of(pins: Mapping[str, str], found: list[mcp_pb2.Tool]) -> list[tuple[str, str]]:
    """Names of tools that are not as they were approved, sorted, each with "changed", "new" or "gone"."""
    now = {tool.name: tool_digest(tool) for tool in found}
    how = {
        name: "gone" if name not in now else "new" if name not in pins else "changed"
        for name in pins.keys() | now.keys()
        if pins.get(name) != now.get(name)
    }
    return sorted(how.items())
