"""`meshctl logs`: what the parts of the mesh have said."""

import heapq
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from mesh.config import MeshSettings
from mesh.errors import NotFound

_FOLLOW_PAUSE = 0.25
_HIDDEN = frozenset({"ts", "level", "event", "service", "child", "pid", "line"})


def logs_dir(settings: MeshSettings) -> Path:
    """Where `up` and `run` write their logs, a file each."""
    return settings.state_dir / "logs"


def parse_line(text: str) -> dict[str, Any]:
    """One log line as facts; a line that a child printed as JSON is taken as the child's own."""
    facts = _object(text) or {"event": text}
    if facts.get("event") == "child_output":
        inner = _object(str(facts.get("line", "")))
        own = inner if inner and "event" in inner else {"event": facts.get("line", ""), "level": "info"}
        return {"ts": facts.get("ts", ""), "service": facts.get("child", "")} | own
    return facts


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def render_line(facts: dict[str, Any]) -> str:
    """One log line for people."""
    moment = str(facts.get("ts", ""))[11:23]
    rest = " ".join(f"{key}={value}" for key, value in facts.items() if key not in _HIDDEN and value not in ("", None))
    return f"{moment:12} {facts.get('level', '')[:7]:7} {facts.get('service', ''):18} {facts.get('event', '')} {rest}"


def concerns(facts: dict[str, Any], name: str | None) -> bool:
    """True when the line is about `name`: its service, one of its instances or its sidecar."""
    if name is None:
        return True
    about = {str(facts.get(key, "")) for key in ("service", "child", "member", "instance", "node", "declared")}
    return any(text == name or text.startswith((f"{name}-", f"{name}/", f"{name}.")) for text in about)


class LogReader:
    """Reads a folder's logs from where it was left: whole lines, of files that are new or begun anew, too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[Path, _LogFile] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there are no logs."""
        return not any(self._directory.glob("*.log"))

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines since the last call, file by file."""
        for path in sorted(self._directory.glob("*.log")):
            known = self._files.get(path)
            try:
                if known is None or known.was_replaced(path):
                    if known is not None:
                        yield from known.read()
                        known.close()
                    self._files[path] = known = _LogFile(path)
            except OSError:
                # It was renamed at this moment: the next call finds the new one.
                continue
            yield from known.read()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


class _LogFile:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        self._rest = b""

    def was_replaced(self, path: Path) -> bool:
        return path.stat().st_ino != os.fstat(self._stream.fileno()).st_ino

    def read(self) -> Iterator[dict[str, Any]]:
        for line in self._stream:
            # The end of a file may be half a line, whose other half is still to come.
            self._rest += line
            if self._rest.endswith(b"\n"):
                text, self._rest = self._rest.decode(errors="replace").strip(), b""
                if text:
                    yield parse_line(text)

    def close(self) -> None:
        self._stream.close()


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="How many of the last lines to show.",
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", help="How to print; json: one a line.")
@click.pass_obj
def logs(settings: MeshSettings, name: str | None, follow: bool, lines: int, output: str) -> None:
    """Show the logs of the mesh, or what concerns NAME."""

    def say(facts: dict[str, Any]) -> None:
        click.echo(json.dumps(facts, ensure_ascii=False) if output == "json" else render_line(facts))

    with closing(LogReader(logs_dir(settings))) as reader:
        if reader.is_empty:
            raise NotFound(f"There are no logs in {logs_dir(settings)}.", fix="Start the mesh with `make up`.")
        past = [facts for facts in reader.read() if concerns(facts, name)]
        if not past and name is not None and not follow:
            raise NotFound(
                f"No line of the logs concerns {name!r}.", field="NAME", fix="`meshctl status` lists the names."
            )
        newest = heapq.nlargest(lines, enumerate(past), key=lambda at: (str(at[1].get("ts", "")), at[0]))
        for _, facts in reversed(newest):
            say(facts)
        while follow:
            time.sleep(_FOLLOW_PAUSE)
            for facts in reader.read():
                if concerns(facts, name):
                    say(facts)
