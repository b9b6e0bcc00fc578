"""Revisions of the mesh document in the words of operators."""

import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC

import click
from google.protobuf.json_format import MessageToDict

from agentmesh.config.v1 import config_pb2, config_service_pb2, config_service_pb2_grpc
from mesh.config import MeshSettings
from services.meshctl.connection import open_admin
from services.meshctl.failures import FAILED
from services.meshctl.output import ago, print_json, print_table, shorten, shorten_text

WAIT_SECONDS = 60.0
"""How long a change is waited for at most; the control plane answers sooner."""

_STATUS = {
    config_pb2.REVISION_STATUS_STAGED: "staged",
    config_pb2.REVISION_STATUS_ACTIVE: "active",
    config_pb2.REVISION_STATUS_SUPERSEDED: "superseded",
    config_pb2.REVISION_STATUS_ROLLED_BACK: "rolled back",
}

Answer = config_service_pb2.ApplyDocumentResponse | config_service_pb2.RollbackDocumentResponse


@asynccontextmanager
async def open_config(settings: MeshSettings) -> "AsyncIterator[config_service_pb2_grpc.ConfigServiceAsyncStub]":
    """ConfigService of the running mesh; raises Unavailable that says how to start one."""
    async with open_admin(settings) as channel:
        yield config_service_pb2_grpc.ConfigServiceStub(channel)


def status_of(revision: config_pb2.Revision) -> str:
    """The status in a word or two."""
    return _STATUS.get(revision.status, "unknown")


def revision_to_dict(revision: config_pb2.Revision) -> dict[str, object]:
    """A revision for programs; numbers are numbers."""
    plain = MessageToDict(revision, preserving_proto_field_name=True)
    return {
        **plain,
        "number": revision.number,
        "status": status_of(revision).replace(" ", "-"),
        "restores": revision.restores,
    }


def fault_text(fault: config_pb2.Fault) -> str:
    """A fault in one line: where, which field, what is wrong."""
    where = f"{fault.source}, line {fault.line}" if fault.line else fault.source
    return ": ".join(part for part in (where, fault.field, fault.reason) if part)


def print_faults(faults: Iterable[config_pb2.Fault]) -> None:
    """Print each fault on standard error."""
    for fault in faults:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {fault_text(fault)}", err=True)


def print_remarks(remarks: Iterable[config_pb2.Fault]) -> None:
    """Print what may be a mistake on standard error."""
    for remark in remarks:
        click.echo(f"{click.style('note:', fg='yellow', bold=True)} {fault_text(remark)}", err=True)


def print_changes(changes: Sequence[config_pb2.ValueChange]) -> None:
    """Print what differs between two documents."""
    rows = [(change.field, change.before or "-", change.after or "-") for change in changes]
    print_table(("field", "before", "after"), rows, empty="The document says the same as before.")


def print_revisions(revisions: Iterable[config_pb2.Revision]) -> None:
    """Print a history, newest first."""
    rows = [
        (
            revision.number,
            status_of(revision),
            ago(revision.create_time.ToDatetime(tzinfo=UTC)),
            revision.author,
            shorten_text(revision.cause or revision.message, most=100) or "-",
        )
        for revision in revisions
    ]
    print_table(("revision", "status", "age", "author", "message or cause"), rows, empty="The history is empty.")


def finish(answer: Answer, output: str, *, newest: int = 0, asked_for_undo: bool = False) -> None:
    """Tell what became of a change; exits with status 1 when it was undone, unless that was asked for.

    `newest` is the newest revision before it, if known: one that is not newer says that there was nothing to change.
    """
    revision = answer.revision
    is_undone = revision.status == config_pb2.REVISION_STATUS_ROLLED_BACK
    if output == "json":
        print_json(
            {
                "revision": revision_to_dict(revision),
                "proxies_acked": answer.proxies_acked,
                "proxies_waiting": list(answer.proxies_waiting),
            }
        )
    elif is_undone and asked_for_undo:
        click.echo(f"Revision {revision.number} is undone.")
    elif is_undone:
        _print_undone(revision)
    elif revision.number <= newest:
        click.echo(f"Nothing has changed: revision {revision.number} says the same.")
    else:
        click.echo(_progress_text(answer))
    if is_undone and not asked_for_undo:
        sys.exit(FAILED)


def _progress_text(answer: Answer) -> str:
    number, waiting = answer.revision.number, list(answer.proxies_waiting)
    if answer.revision.status == config_pb2.REVISION_STATUS_STAGED:
        text = (
            f"Revision {number} is staged: {_proxies(answer.proxies_acked)} of the first ones. "
            "It goes to all when these do well; see `meshctl config watch`."
        )
    else:
        text = f"Revision {number} is in force: {_proxies(answer.proxies_acked)}."
    if waiting:
        text += f"\nNot answered yet: {shorten(waiting)}. See `meshctl proxies`."
    return text


def _proxies(count: int) -> str:
    if not count:
        return "no connected proxy was concerned"
    return f"{count} prox{'y has' if count == 1 else 'ies have'} accepted it"


def _print_undone(revision: config_pb2.Revision) -> None:
    click.echo(
        f"{click.style('error:', fg='red', bold=True)} Revision {revision.number} was undone; "
        "what was in force before is in force again.",
        err=True,
    )
    if not revision.refusals:
        click.echo(f"  {revision.cause}", err=True)
    for refusal in revision.refusals:
        click.echo(f"  {refusal.node_id} refuses the {refusal.type} {', '.join(refusal.resources)}:", err=True)
        click.echo(f"    {shorten_text(refusal.message, most=400)}", err=True)
    origins = {
        (refusal.origin.source, refusal.origin.line, refusal.origin.field)
        for refusal in revision.refusals
        if refusal.HasField("origin")
    }
    for source, line, field in sorted(origins):
        where = f"{source}, line {line}" if line else source
        click.echo(f"  caused by {where}: {field}", err=True)
