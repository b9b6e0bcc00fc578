"""`meshctl proxies`: what configuration each proxy was sent, has accepted and has refused."""

import asyncio
import json
from datetime import UTC, datetime

import click
from google.protobuf.json_format import MessageToDict

from agentmesh.config.v1 import config_pb2, config_service_pb2
from agentmesh.control.v1 import control_pb2, control_service_pb2
from mesh.config import MeshSettings
from services.meshctl.connection import TIMEOUT, open_control
from services.meshctl.output import ago, output_option, print_json, print_table, shorten_text, show
from services.meshctl.revisions import open_config


@click.command()
@click.argument("node", required=False)
@click.option(
    "--config",
    "kind",
    metavar="TYPE",
    help="Print what NODE should have as Envoy's JSON: listener, route, cluster, endpoint, extension, or all.",
)
@output_option
@click.pass_obj
def proxies(settings: MeshSettings, node: str | None, kind: str | None, output: str) -> None:
    """Show the connected proxies, or NODE only, and what configuration each has accepted.

    LAG tells for how long the newest version has not been answered.
    """
    if kind is not None:
        if node is None:
            raise click.UsageError("Name the proxy: `meshctl proxies NODE --config TYPE`.")
        _print_config(asyncio.run(_read_config(settings, node, "" if kind == "all" else kind)), output)
        return
    found = [proxy for proxy in asyncio.run(_read(settings)) if node in (None, proxy.node_id)]
    rows = [
        (
            proxy.node_id if position == 0 else "",
            ago(proxy.connect_time.ToDatetime(tzinfo=UTC)) if position == 0 else "",
            resources.type,
            resources.subscribed,
            resources.sent_version[:8] or "-",
            resources.acked_version[:8] or "-",
            ago(_moment(resources, "ack_time")),
            ago(_moment(resources, "send_time")) if resources.waiting else "-",
            _refusal(resources),
        )
        for proxy in found
        for position, resources in enumerate(proxy.resources)
    ]
    columns = ("proxy", "connected", "type", "resources", "sent", "accepted", "ago", "lag", "last refusal")
    nobody = "No proxy is connected." if node is None else f"No proxy {node} is connected."
    show(
        output,
        [MessageToDict(proxy, preserving_proto_field_name=True) for proxy in found],
        lambda: print_table(columns, rows, empty=nobody),
    )


async def _read(settings: MeshSettings) -> list[control_pb2.Proxy]:
    async with open_control(settings) as control:
        response = await control.ListProxies(control_service_pb2.ListProxiesRequest(), timeout=TIMEOUT)
        return list(response.proxies)


async def _read_config(settings: MeshSettings, node: str, kind: str) -> list[config_pb2.ProxyResource]:
    request = config_service_pb2.ListProxyResourcesRequest(node_id=node, type=kind)
    async with open_config(settings) as config:
        return list((await config.ListProxyResources(request, timeout=TIMEOUT)).resources)


def _print_config(resources: list[config_pb2.ProxyResource], output: str) -> None:
    if output == "json":
        print_json(
            [
                {"type": it.type, "name": it.name, "version": it.version, "resource": json.loads(it.document)}
                for it in resources
            ]
        )
        return
    for each in resources:
        click.echo(f"{click.style(f'{each.type} {each.name}', bold=True)}  {each.version}")
        click.echo(each.document)


def _refusal(resources: control_pb2.ProxyResources) -> str:
    if not resources.nack_message:
        return "-"
    when = ago(_moment(resources, "nack_time"))
    return f"{when} ago: {shorten_text(resources.nack_message, most=120)}"


def _moment(resources: control_pb2.ProxyResources, field: str) -> datetime | None:
    if not resources.HasField(field):  # type: ignore[arg-type]
        return None
    moment: datetime = getattr(resources, field).ToDatetime(tzinfo=UTC)
    return moment
