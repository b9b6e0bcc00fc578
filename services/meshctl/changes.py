"""`meshctl apply`, `diff`, `history` and `rollback`: change the mesh document of a running mesh, and take it back."""

import asyncio
import difflib
import sys
from pathlib import Path

import click
from google.protobuf.duration_pb2 import Duration

from agentmesh.config.v1 import config_pb2, config_service_pb2
from mesh.config import MeshSettings
from mesh.config.document.files import read_layer_file
from services.meshctl.amount import Amount
from services.meshctl.connection import TIMEOUT
from services.meshctl.failures import USAGE
from services.meshctl.output import output_option, print_json, show
from services.meshctl.revisions import (
    WAIT_SECONDS,
    finish,
    open_config,
    print_changes,
    print_faults,
    print_remarks,
    print_revisions,
    revision_to_dict,
)

_LONGEST_ANSWER = WAIT_SECONDS + 20.0
_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_message_option = click.option("-m", "--message", default="", help="What the change is for.")
_expect_option = click.option(
    "--expect", type=click.IntRange(min=0), help="Change only if this still is the newest revision."
)
_wait_option = click.option(
    "--wait",
    type=Amount(WAIT_SECONDS),
    default=5.0,
    show_default=True,
    help="Seconds to wait for the proxies' answers.",
)


@click.command()
@_file
@_message_option
@_expect_option
@_wait_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Tell what would change, and change nothing.")
@output_option
@click.pass_obj
def apply(
    settings: MeshSettings,
    file: Path,
    message: str,
    expect: int | None,
    wait: float,
    *,
    yes: bool,
    dry_run: bool,
    output: str,
) -> None:
    """Make the document in FILE the operator's layer, after telling what it changes.

    Nothing changes when something is wrong with it. When a proxy refuses it, it is undone for all of them, and the
    exit status is 1.
    """
    text = read_layer_file(file)
    plan = asyncio.run(_plan(settings, text, str(file), with_resources=False))
    _stop_at_faults(plan, output)
    if dry_run:
        _show_plan(plan, output)
        return
    if output != "json":
        print_changes(plan.changes)
    print_remarks(plan.remarks)
    if not yes:
        _ask("Apply this?")
    request = config_service_pb2.ApplyDocumentRequest(
        document=text,
        source=str(file),
        message=message,
        # What has been shown is what is changed.
        expected_revision=plan.revision if expect is None else expect,
        wait=_duration(wait),
    )

    async def send() -> config_service_pb2.ApplyDocumentResponse:
        async with open_config(settings) as config:
            return await config.ApplyDocument(request, timeout=_LONGEST_ANSWER)

    finish(asyncio.run(send()), output, newest=plan.revision)


@click.command()
@_file
@click.option("--resources", is_flag=True, help="Tell what changes of each connected proxy's configuration, too.")
@output_option
@click.pass_obj
def diff(settings: MeshSettings, file: Path, *, resources: bool, output: str) -> None:
    """Tell what the document in FILE would change; secrets are masked. Exit status 2: something is wrong with it."""
    plan = asyncio.run(_plan(settings, read_layer_file(file), str(file), with_resources=resources))
    _stop_at_faults(plan, output)
    _show_plan(plan, output)


@click.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many to show.")
@output_option
@click.pass_obj
def history(settings: MeshSettings, limit: int, output: str) -> None:
    """Show the revisions of the mesh document, newest first."""

    async def read() -> list[config_pb2.Revision]:
        async with open_config(settings) as config:
            request = config_service_pb2.ListRevisionsRequest(page_size=limit)
            return list((await config.ListRevisions(request, timeout=TIMEOUT)).revisions)

    found = asyncio.run(read())
    show(output, [revision_to_dict(revision) for revision in found], lambda: print_revisions(found))


@click.command()
@click.argument("revision", type=click.IntRange(min=1), required=False)
@_message_option
@_expect_option
@_wait_option
@output_option
@click.pass_obj
def rollback(
    settings: MeshSettings, revision: int | None, message: str, expect: int | None, wait: float, output: str
) -> None:
    """Make a new revision with the content of REVISION, or of the one in force before; or undo a staged one."""
    request = config_service_pb2.RollbackDocumentRequest(
        revision=revision or 0, message=message, expected_revision=expect, wait=_duration(wait)
    )

    async def send() -> config_service_pb2.RollbackDocumentResponse:
        async with open_config(settings) as config:
            return await config.RollbackDocument(request, timeout=_LONGEST_ANSWER)

    answer = asyncio.run(send())
    # A staged revision that was undone is the one that is told of; a new one has the content of another.
    finish(answer, output, asked_for_undo=not answer.revision.restores)


async def _plan(
    settings: MeshSettings, text: str, source: str, *, with_resources: bool
) -> config_service_pb2.PlanDocumentResponse:
    request = config_service_pb2.PlanDocumentRequest(document=text, source=source, with_resources=with_resources)
    async with open_config(settings) as config:
        return await config.PlanDocument(request, timeout=_LONGEST_ANSWER)


def _stop_at_faults(plan: config_service_pb2.PlanDocumentResponse, output: str) -> None:
    if not plan.faults:
        return
    if output == "json":
        print_json({"faults": [_fault_to_dict(fault) for fault in plan.faults]})
    print_faults(plan.faults)
    sys.exit(USAGE)


def _fault_to_dict(fault: config_pb2.Fault) -> dict[str, object]:
    return {"source": fault.source, "line": fault.line, "field": fault.field, "reason": fault.reason}


def _show_plan(plan: config_service_pb2.PlanDocumentResponse, output: str) -> None:
    if output == "json":
        changes = [{"field": it.field, "before": it.before, "after": it.after} for it in plan.changes]
        resources = [
            {"node_id": it.node_id, "type": it.type, "name": it.name, "before": it.before, "after": it.after}
            for it in plan.resources
        ]
        remarks = [_fault_to_dict(remark) for remark in plan.remarks]
        print_json({"revision": plan.revision, "changes": changes, "resources": resources, "remarks": remarks})
        return
    print_changes(plan.changes)
    print_remarks(plan.remarks)
    for each in plan.resources:
        old, new = each.before.splitlines(), each.after.splitlines()
        click.echo(f"\n{each.node_id}  {each.type} {each.name}")
        # The first two lines would name files.
        for line in list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]:
            click.echo(f"  {_coloured(line)}")


def _coloured(line: str) -> str:
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return click.style(line, fg=colour) if colour else line


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("There is nobody to ask. Give --yes to apply it, or --dry-run to look only.")
    click.confirm(question, abort=True)


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
