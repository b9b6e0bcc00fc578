"""Tables of prices or returns, and their CSV form: a header, an optional date column, one column for each series."""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

from services.financial.limits import MAX_CELLS, MAX_CSV_BYTES, MAX_NAMES, MAX_POINTS
from services.tool_server import InvalidArgument, quote

__all__ = ["PriceTable", "check_names", "parse_price_csv"]

_DATE_HEADERS = ("date", "day", "time", "timestamp")


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Series of one length, by name, in the order of the file; `dates` is empty when there is no date column."""

    series: dict[str, list[float]]
    dates: tuple[str, ...] = ()


def parse_price_csv(text: str, *, field: str) -> PriceTable:
    """Read CSV text; lines that start with "#" are comments.

    Raises InvalidArgument, which names `field` and the line at fault.
    """
    _check_size(text, field)
    rows = _read_rows(text, field)
    line, header = next(rows, (1, []))
    if not header:
        raise InvalidArgument(field, "the CSV text is empty.", 'Begin with a header such as "date,AAA,BBB".')
    names, dated = _read_header(header, f"{field} line {line}")
    columns: list[list[float]] = [[] for _ in names]
    dates: list[str] = []
    last = date.min
    for line, row in rows:
        where = f"{field} line {line}"
        if len(row) != len(header):
            raise InvalidArgument(
                where, f"{len(row)} fields, but the header has {len(header)}.", "Give every line the same fields."
            )
        if len(columns[0]) >= MAX_POINTS or (len(columns[0]) + 1) * len(names) > MAX_CELLS:
            raise InvalidArgument(
                where,
                f"more than {MAX_POINTS} rows or {MAX_CELLS} numbers.",
                "Give a shorter span or longer periods, such as weekly prices.",
            )
        if dated:
            day = _read_date(row[0], where)
            if day <= last:
                raise InvalidArgument(
                    where, f"the date {day} is not after the one before, {last}.", "Sort by date, one row for each."
                )
            last = day
            dates.append(day.isoformat())
        for name, column, cell in zip(names, columns, row[dated:], strict=True):
            column.append(_read_number(cell, where, name))
    if not columns[0]:
        raise InvalidArgument(field, "there is no row below the header.", "Give at least three rows of prices.")
    return PriceTable(dict(zip(names, columns, strict=True)), tuple(dates))


def _check_size(text: str, field: str) -> None:
    if len(text) > MAX_CSV_BYTES:
        raise InvalidArgument(
            field, f"{len(text)} characters; at most {MAX_CSV_BYTES} are read.", "Give a shorter span."
        )
    lines = text.count("\n")
    if lines > 2 * MAX_POINTS:  # comments and blank lines may be among them
        raise InvalidArgument(field, f"{lines} lines; at most {MAX_POINTS} rows are read.", "Give a shorter span.")


def _read_rows(text: str, field: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped cells of each line with content."""
    reader = csv.reader(text.removeprefix("\ufeff").splitlines(), strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) and not cells[0].startswith("#"):
                yield reader.line_num, cells
    except csv.Error as err:
        raise InvalidArgument(
            f"{field} line {reader.line_num}", f"this is not CSV ({err}).", "Close every quote and quote no number."
        ) from err


def _read_header(cells: list[str], where: str) -> tuple[list[str], bool]:
    if len(cells) == 1 and any(mark in cells[0] for mark in ";\t|"):
        raise InvalidArgument(where, "the columns are not separated by commas.", "Use commas between the columns.")
    if all(_is_number(cell) for cell in cells):
        raise InvalidArgument(where, "the header is missing.", 'Put names first, such as "date,AAA,BBB".')
    dated = cells[0].lower() in _DATE_HEADERS
    names = cells[dated:]
    if not names:
        raise InvalidArgument(where, "there is no column beside the date.", "Add one column for each series.")
    check_names(names, where)
    return names, dated


def check_names(names: Iterable[str], where: str) -> None:
    """Raise InvalidArgument unless there are few enough names, none of them empty, long or there twice."""
    seen: set[str] = set()
    for name in names:
        if not name or len(name) > 64:
            raise InvalidArgument(where, f"{quote(name)} is not a name.", "Name each series in 1 to 64 characters.")
        if name in seen:
            raise InvalidArgument(where, f"{quote(name)} is there twice.", "Give each series a name of its own.")
        seen.add(name)
    if len(seen) > MAX_NAMES:
        raise InvalidArgument(where, f"{len(seen)} series; at most {MAX_NAMES} are read.", "Leave some out.")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_date(cell: str, where: str) -> date:
    try:
        return date.fromisoformat(cell[:10])  # what follows may be a time of day
    except ValueError as err:
        raise InvalidArgument(where, f"{quote(cell)} is not a date.", "Write dates as YYYY-MM-DD.") from err


def _read_number(cell: str, where: str, name: str) -> float:
    try:
        value = math.nan if "_" in cell else float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = f"{quote(cell)} is not a number" if cell else "the value is missing"
        raise InvalidArgument(
            f"{where} column {quote(name)}", f"{what}.", "Write a plain number such as 101.25, or leave the line out."
        )
    return value
