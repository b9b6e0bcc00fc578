"""`meshctl config get` and `config watch`: the document of the running mesh. `meshctl explain`: what it means."""

import asyncio
import json
from datetime import UTC

import click

from agentmesh.config.v1 import config_pb2, config_service_pb2
from mesh.config import MeshSettings
from services.meshctl.connection import TIMEOUT
from services.meshctl.output import output_option, print_json, print_table, shorten, shorten_text
from services.meshctl.revisions import open_config, revision_to_dict, status_of


@click.command("get")
@click.option("--revision", type=click.IntRange(min=1), help="One of the history.  [default: the one in force]")
@click.option("--origin", is_flag=True, help="Tell for each value which layer and line set it.")
@click.option("--layer", "layer", help="Print the text of one layer: defaults, an environment, or operator.")
@output_option
@click.pass_obj
def get_document(settings: MeshSettings, revision: int | None, layer: str | None, *, origin: bool, output: str) -> None:
    """Print the document that is in force in the running mesh; secrets are references."""
    request = config_service_pb2.GetDocumentRequest(revision=revision or 0, with_origins=origin)

    async def read() -> config_service_pb2.GetDocumentResponse:
        async with open_config(settings) as config:
            return await config.GetDocument(request, timeout=TIMEOUT)

    answer = asyncio.run(read())
    if output == "json":
        print_json(_to_dict(answer))
        return
    for refused in answer.refused_layers:
        click.echo(
            f"warning: what stands in {refused.source} is not in force: {shorten_text(refused.reason, most=400)}",
            err=True,
        )
    if layer is not None:
        _print_layer(answer, layer)
    elif origin:
        rows = [(it.field, it.value, it.layer, f"{it.source}:{it.line}" if it.line else "-") for it in answer.origins]
        print_table(("field", "value", "layer", "where"), rows, empty="The document is empty.")
    else:
        click.echo(answer.document, nl=False)


def _print_layer(answer: config_service_pb2.GetDocumentResponse, name: str) -> None:
    for layer in answer.layers:
        if layer.name == name:
            click.echo(layer.document, nl=False)
            return
    raise click.BadParameter(
        f"There is no layer {name!r}; there are {', '.join(layer.name for layer in answer.layers)}.",
        param_hint="--layer",
    )


def _to_dict(answer: config_service_pb2.GetDocumentResponse) -> dict[str, object]:
    return {
        "revision": revision_to_dict(answer.revision),
        "document": answer.document,
        "layers": [{"name": it.name, "source": it.source, "document": it.document} for it in answer.layers],
        "origins": [
            {"field": it.field, "value": json.loads(it.value), "layer": it.layer, "source": it.source, "line": it.line}
            for it in answer.origins
        ],
        "refused_layers": [{"name": it.name, "source": it.source, "reason": it.reason} for it in answer.refused_layers],
    }


@click.command("watch")
@output_option
@click.pass_obj
def watch_document(settings: MeshSettings, output: str) -> None:
    """Print a line whenever a revision is made, promoted or undone, until Ctrl-C."""

    async def follow() -> None:
        async with open_config(settings) as config:
            async for answer in config.WatchDocument(config_service_pb2.WatchDocumentRequest()):
                _print_line(answer.revision, output)

    asyncio.run(follow())


def _print_line(revision: config_pb2.Revision, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(revision_to_dict(revision), ensure_ascii=False))
        return
    moment = revision.create_time.ToDatetime(tzinfo=UTC)
    said = revision.cause or revision.message
    tail = f": {shorten_text(said, most=300)}" if said else ""
    click.echo(
        f"{moment:%Y-%m-%d %H:%M:%S}Z  revision {revision.number}  {status_of(revision)}  {revision.author}{tail}"
    )


@click.command()
@click.argument("caller", metavar="FROM")
@click.argument("callee", metavar="TO")
@click.argument("method")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A request header; may be repeated.")
@output_option
@click.pass_obj
def explain(
    settings: MeshSettings, caller: str, callee: str, method: str, headers: tuple[str, ...], output: str
) -> None:
    """Tell what becomes of a call of FROM to TO: its route, targets, endpoints, policy and intention.

    METHOD is PACKAGE.SERVICE/METHOD or /PATH. Exit status 0 also for a call that is not allowed.
    """
    request = config_service_pb2.ExplainCallRequest(
        caller=caller, callee=callee, method=method, headers=dict(_header(text) for text in headers)
    )

    async def read() -> config_service_pb2.ExplainCallResponse:
        async with open_config(settings) as config:
            return await config.ExplainCall(request, timeout=TIMEOUT)

    answer = asyncio.run(read())
    if output == "json":
        print_json(_explained_to_dict(answer))
        return
    click.echo(answer.verdict)
    if not answer.route:
        return
    click.echo(f"\nroute      {answer.route}\nintention  {answer.intention}")
    rows = [
        (
            each.target,
            each.role,
            f"{each.percent:g} %" if each.role == "route" else "-",
            f"{each.healthy} of {len(each.endpoints)}",
            shorten(each.endpoints) or "-",
        )
        for each in answer.targets
    ]
    print_table(("target", "role", "share", "healthy", "endpoints"), rows, empty="It goes nowhere.")
    if answer.policy:
        click.echo(answer.policy.rstrip())


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint="--header")
    return name.lower(), value


def _explained_to_dict(answer: config_service_pb2.ExplainCallResponse) -> dict[str, object]:
    return {
        "allowed": answer.allowed,
        "verdict": answer.verdict,
        "route": answer.route,
        "targets": [
            {
                "target": each.target,
                "cluster": each.cluster,
                "percent": each.percent,
                "role": each.role,
                "endpoints": list(each.endpoints),
                "healthy": each.healthy,
            }
            for each in answer.targets
        ],
        "intention": answer.intention,
        "policy": answer.policy,
    }
