"""`meshctl audit`: who was let in at the edge, who was not, and whether the log of it is whole."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mesh.access.audit_chain import audit_files, verify
from mesh.config import MeshSettings
from mesh.errors import NotFound
from services.meshctl.output import output_option, print_json, print_table, show

_PAUSE = 0.25

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
@output_option
@click.pass_obj
def verify_audit(settings: MeshSettings, directory: Path | None, output: str) -> None:
    """Look whether any line was changed, taken out or put in. Exit status 1: yes."""
    reports = {folder: verify(folder) for folder in _folders(settings, directory)}
    facts = [{"folder": str(folder), "good": report.is_good, **asdict(report)} for folder, report in reports.items()]

    def render() -> None:
        for folder, report in reports.items():
            end = "good" if report.is_good else f"BROKEN at {report.where}: {report.broken}"
            click.echo(f"{folder.name}: {report.lines} lines in {report.files} files: {end}")

    show(output, facts, render)
    if not all(report.is_good for report in reports.values()):
        raise SystemExit(1)


@audit.command("show")
@_dir_option
@click.option("--last", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many entries.")
@click.option("--who", default="", help="Only of those whose name has this in it.")
@click.option("--decision", default="", help="Only these: allowed, refused, blocked, limited.")
@click.option("--follow", is_flag=True, help="Go on with what comes.")
@output_option
@click.pass_obj
def show_audit(
    settings: MeshSettings, directory: Path | None, last: int, who: str, decision: str, follow: bool, output: str
) -> None:
    """Show the newest entries."""
    folders = _folders(settings, directory)

    def is_meant(entry: dict[str, Any]) -> bool:
        return who in str(entry.get("who", "")) and decision in ("", entry.get("decision"))

    found = [entry for folder in folders for entry in _entries(folder) if is_meant(entry)]
    newest = sorted(found, key=lambda entry: float(entry["time"]))[-last:]
    columns = ("time", "who", "decision", "reason", "what", "door", "from")
    show(output, newest, lambda: print_table(columns, [_row(entry) for entry in newest], empty="There are no entries."))
    if follow:
        seen = {folder: _last(folder) for folder in folders}
        while True:
            time.sleep(_PAUSE)
            for folder in folders:
                for entry in _entries(folder, after=seen[folder]):
                    seen[folder] = int(entry["sequence"])
                    if is_meant(entry):
                        print_json(entry) if output == "json" else click.echo("  ".join(map(str, _row(entry))))


def _folders(settings: MeshSettings, directory: Path | None) -> list[Path]:
    if directory is not None:
        return [directory]
    folders = sorted(path for path in (settings.state_dir / "audit").glob("*") if path.is_dir() and audit_files(path))
    if not folders:
        raise NotFound(
            f"There is no audit below {settings.state_dir / 'audit'}.", fix="Start the mesh, or name a folder by --dir."
        )
    return folders


def _entries(folder: Path, *, after: int = 0) -> Iterator[dict[str, Any]]:
    for path in audit_files(folder):
        with path.open("rb") as file:
            for line in file:
                try:
                    entry: dict[str, Any] = json.loads(line)
                except ValueError:
                    continue
                if int(entry.get("sequence", 0)) > after:
                    yield entry


def _last(folder: Path) -> int:
    return max((int(entry["sequence"]) for entry in _entries(folder)), default=0)


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    moment = datetime.fromtimestamp(float(entry["time"]), UTC).strftime("%m-%d %H:%M:%S.%f")[:-3]
    named = entry.get("tool") or entry.get("skill")
    what = f"{entry.get('service', '')}/{entry.get('method', '')}".replace("//", "/") + (f"[{named}]" if named else "")
    texts = (entry.get(name, "-") for name in ("who", "decision", "reason"))
    return (moment, *map(str, texts), what, str(entry.get("door", "-")), str(entry.get("client", "-")))
