"""`meshctl audit`: who was let in at the edge, who was not, and whether the log of it is whole."""

import heapq
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from mesh.access.audit_chain import Report, verify
from mesh.access.audit_files import AuditReader, is_audit, newest_entries
from mesh.config import MeshSettings
from mesh.errors import NotFound
from services.meshctl.output import output_option, print_table, show

_PAUSE = 0.25
_DECISIONS = ("allowed", "refused", "blocked", "limited", "missing", "torn", "lost")
_HASH = 64

_dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of one gateway.  [default: all below STATE_DIR/audit]",
)


@click.group()
def audit() -> None:
    """Read and verify the log of decisions."""


@audit.command("verify")
@_dir_option
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="NUMBER:HASH",
    help="A line that must be in it, as an earlier `verify` or the gateway's log (audit_head) has told it. Repeatable.",
)
@output_option
@click.pass_obj
def verify_audit(settings: MeshSettings, directory: Path | None, heads: tuple[str, ...], output: str) -> None:
    """Look whether any line was changed, taken out or put in. Exit status 1: yes."""
    known = dict(_parse_head(head) for head in heads)
    folders = _folders(settings, directory)
    if known and len(folders) > 1:
        raise click.UsageError("--head is about one gateway: name its folder by --dir.")
    reports = {folder: verify(folder, known=known) for folder in folders}
    facts = [{"folder": str(folder), "good": report.is_good, **asdict(report)} for folder, report in reports.items()]

    def render() -> None:
        for folder, report in reports.items():
            click.echo(f"{folder.name}: {_describe(report)}")

    show(output, facts, render)
    if not all(report.is_good for report in reports.values()):
        raise SystemExit(1)


@audit.command("show")
@_dir_option
@click.option("--last", type=click.IntRange(0, 100_000), default=20, show_default=True, help="How many entries.")
@click.option("--who", default="", help="Only of those whose name has this in it.")
@click.option("--decision", type=click.Choice(_DECISIONS), help="Only these.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes until Ctrl-C; with json, one entry a line.")
@output_option
@click.pass_obj
def show_audit(
    settings: MeshSettings,
    directory: Path | None,
    last: int,
    who: str,
    decision: str | None,
    follow: bool,
    output: str,
) -> None:
    """Show the newest entries, the newest last."""

    def is_meant(entry: dict[str, Any]) -> bool:
        return who in str(entry.get("who", "")) and decision in (None, entry.get("decision"))

    folders = _folders(settings, directory)
    with ExitStack() as stack:
        # Before what is there is read, so that nothing falls between.
        readers = [stack.enter_context(closing(AuditReader(folder))) for folder in folders] if follow else []
        newest = _newest(folders, is_meant, last)
        if not follow:
            columns = ("time", "who", "decision", "reason", "what", "door", "from")
            rows = [_row(entry) for entry in newest]
            show(output, newest, lambda: print_table(columns, rows, empty="There are no such entries."))
            return
        say = _say_json if output == "json" else _say_row
        for entry in newest:
            say(entry)
        seen = {(entry.get("hash")) for entry in newest}
        while True:
            for reader in readers:
                for entry in reader.read():
                    if is_meant(entry) and entry.get("hash") not in seen:
                        say(entry)
            time.sleep(_PAUSE)


def _newest(folders: list[Path], is_meant: Callable[[dict[str, Any]], bool], count: int) -> list[dict[str, Any]]:
    def meant(folder: Path) -> Iterator[dict[str, Any]]:
        return (entry for entry in newest_entries(folder) if is_meant(entry))

    merged = heapq.merge(*map(meant, folders), key=lambda entry: float(entry["time"]), reverse=True)
    return list(islice(merged, count))[::-1]


def _folders(settings: MeshSettings, directory: Path | None) -> list[Path]:
    if directory is not None:
        return [directory]
    folders = sorted(path for path in (settings.state_dir / "audit").glob("*") if path.is_dir() and is_audit(path))
    if not folders:
        raise NotFound(
            f"There is no audit below {settings.state_dir / 'audit'}.", fix="Start the mesh, or name a folder by --dir."
        )
    return folders


def _parse_head(text: str) -> tuple[int, str]:
    number, colon, made = text.partition(":")
    if not (colon and number.isdecimal() and len(made) == _HASH and set(made) <= set("0123456789abcdef")):
        raise click.BadParameter(f"{text!r} is no NUMBER:HASH.", param_hint="--head")
    return int(number), made


def _describe(report: Report) -> str:
    if not report.is_good:
        return f"BROKEN at {report.where}: {report.broken} ({report.lines} lines before it are good)"
    missing = f", {report.missing} entries found no room" if report.missing else ""
    return f"{report.lines} lines in {report.files} files are good{missing}; head {report.last}:{report.hash}"


def _say_json(entry: dict[str, Any]) -> None:
    click.echo(json.dumps(entry))


def _say_row(entry: dict[str, Any]) -> None:
    click.echo("  ".join(_row(entry)))


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    moment = datetime.fromtimestamp(float(entry["time"]), UTC).strftime("%m-%d %H:%M:%S.%f")[:-3]
    named = entry.get("tool") or entry.get("skill")
    what = f"{entry.get('service', '')}/{entry.get('method', '')}".replace("//", "/") + (f"[{named}]" if named else "")
    if "service" not in entry:
        what = " ".join(f"{name}={entry[name]}" for name in ("count", "bytes", "rule") if name in entry)
    texts = (entry.get(name) or "-" for name in ("who", "decision", "reason"))
    found = (moment, *texts, what, entry.get("door") or "-", entry.get("client") or "-")
    return tuple(_printable(str(text)) for text in found)


def _printable(text: str) -> str:
    """What callers have sent must not move the cursor of who reads about it."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
