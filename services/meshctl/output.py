"""What meshctl prints: tables for people, JSON for programs."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

output_option = click.option(
    "--output",
    "output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print the answer.",
)


_WIDTH = 200


def console() -> Console:
    """A console on standard output; on a terminal with colours and its width, elsewhere wide enough for scripts."""
    is_terminal = sys.stdout.isatty()
    # What others say may look like markup: [a-z] is no style.
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=None if is_terminal else _WIDTH)


def print_json(value: object) -> None:
    """Print one JSON document; what JSON has no number for, and a careless server sent, becomes text."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        mended = json.loads(json.dumps(value), parse_constant=str)
        text = json.dumps(mended, indent=2, ensure_ascii=False)
    click.echo(text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows under upper-case column names, or the sentence `empty` when there are none."""
    if not rows:
        click.echo(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column.upper(), overflow="fold", no_wrap=position == 0)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console().print(table)


def show(output: str, value: object, render: Callable[[], None]) -> None:
    """Print `value` as JSON or call `render` for people."""
    if output == "json":
        print_json(value)
    else:
        render()


def shorten(names: Sequence[str], *, most: int = 4) -> str:
    """The first names of a list and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def shorten_text(text: str, *, most: int = 160) -> str:
    """A text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def ago(moment: datetime | None, *, now: datetime | None = None) -> str:
    """How long ago a moment is, or how far ahead, in one unit: "12 s", "in 58 min"; "-" for None."""
    if moment is None:
        return "-"
    distance = (now or datetime.now(UTC)) - moment
    ahead = distance < timedelta(0)
    seconds = abs(distance.total_seconds())
    unit, size = next((u, s) for u, s in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)) if seconds >= s or s == 1)
    text = f"{seconds / size:.0f} {unit}"
    return f"in {text}" if ahead else text


def parse_arguments(words: Sequence[str], read_file: Callable[[str], str]) -> dict[str, Any]:
    """Arguments of a call: one JSON object, @FILE or "-" for one in a file, or NAME=VALUE pairs.

    A VALUE that is JSON is taken as such, any other as text. Raises click.BadParameter.
    """
    if len(words) == 1 and (words[0].startswith(("{", "@")) or words[0] == "-"):
        text = words[0] if words[0].startswith("{") else read_file(words[0].removeprefix("@"))
        try:
            value = _parse_json(text)
        except (ValueError, RecursionError) as err:
            raise click.BadParameter(f"The arguments are not JSON: {err}.") from err
        if not isinstance(value, dict):
            raise click.BadParameter('The arguments must be a JSON object, for example {"rate": 0.05}.')
        return value
    pairs: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{word!r} is neither NAME=VALUE nor a JSON object.")
        if name in pairs:
            raise click.BadParameter(f"{name} is given twice.")
        try:
            pairs[name] = _parse_json(value)
        except (ValueError, RecursionError):
            pairs[name] = value
    return pairs


def _parse_json(text: str) -> Any:
    """A JSON document; raises ValueError for NaN and what is too large for a float, which Python would let pass."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number in JSON")

    def parse_float(word: str) -> float:
        number = float(word)
        return number if math.isfinite(number) else refuse(word)

    return json.loads(text, parse_constant=refuse, parse_float=parse_float)
