"""`meshctl logs`: what the parts of the mesh have said."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

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
    except ValueError:
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


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("-n", "--lines", default=50, show_default=True, help="How many of the last lines to show.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", help="How to print the lines.")
@click.pass_obj
def logs(settings: MeshSettings, name: str | None, follow: bool, lines: int, output: str) -> None:
    """Show the logs of the mesh, or what concerns NAME."""
    files = sorted(logs_dir(settings).glob("*.log"))
    if not files:
        raise NotFound(f"There are no logs in {logs_dir(settings)}.", fix="Start the mesh with `make up`.")

    def say(facts: dict[str, Any]) -> None:
        click.echo(json.dumps(facts, ensure_ascii=False) if output == "json" else render_line(facts))

    streams = [path.open(errors="replace") for path in files]
    past = (facts for stream in streams for facts in _read(stream) if concerns(facts, name))
    for facts in sorted(past, key=lambda facts: str(facts.get("ts", "")))[-lines:]:
        say(facts)
    while follow:
        time.sleep(_FOLLOW_PAUSE)
        for facts in (facts for stream in streams for facts in _read(stream)):
            if concerns(facts, name):
                say(facts)


def _read(stream: TextIO) -> Iterator[dict[str, Any]]:
    return (parse_line(text.rstrip("\n")) for text in stream if text.strip())
