"""Time zones, by the IANA database."""

import difflib
import zoneinfo
from datetime import UTC, datetime
from functools import cache
from typing import Annotated

from pydantic import Field

from services.tool_server import InvalidArgument, Result, quote

__all__ = ["ListOfZones", "ZonedTime", "convert_time", "current_time", "list_time_zones"]

Zone = Annotated[str, Field(max_length=64, description="IANA name such as Europe/Paris, or UTC")]

_MOST_ZONES = 600
_LONGEST_ABBREVIATION = 5
# In the database's folder, but not zones: where the host is, and what stands for "not set".
_NOT_ZONES = {"Factory", "localtime", "posixrules"}


class ZonedTime(Result):
    """A moment in a zone. `note` tells of a local time that daylight saving skips or repeats."""

    time: str
    zone: str
    utc_offset: str
    abbreviation: str
    is_daylight_saving: bool
    unix_seconds: float
    weekday: str
    note: str = ""


class ListOfZones(Result):
    """Names of time zones."""

    zones: list[str]


def current_time(zone: Zone = "UTC") -> ZonedTime:
    """The time now in a time zone."""
    return _describe(datetime.now(_zone(zone, "zone")).replace(microsecond=0), zone)


def convert_time(
    time: Annotated[str, Field(max_length=64, description="ISO 8601, for example 2026-03-29T02:30")],
    to_zone: Zone,
    from_zone: Zone = "UTC",
) -> ZonedTime:
    """Convert a time from one time zone to another.

    A time with an offset of its own, such as 2026-03-01T12:00+02:00, is taken as that; else it is local to from_zone.
    """
    source, target = _zone(from_zone, "from_zone"), _zone(to_zone, "to_zone")
    try:
        moment = datetime.fromisoformat(time)
    except ValueError as err:
        raise InvalidArgument("time", f"{quote(time)} is no ISO 8601 time.", "Write 2026-03-29T14:30.") from err
    note = ""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=source)
        note = _note(moment, from_zone)
    try:
        return _describe(moment.astimezone(UTC).astimezone(target), to_zone, note)
    except OverflowError as err:
        raise InvalidArgument("time", "it leaves the years 1 to 9999.", "Use another year.") from err


def list_time_zones(
    filter: Annotated[  # noqa: A002 - the name in the tool's schema
        str, Field(max_length=64, description="part of the name; empty for all")
    ] = "",
) -> ListOfZones:
    """The names of time zones that contain a text, whatever its case."""
    wanted = filter.lower().replace(" ", "_")
    return ListOfZones(zones=[name for name in _names() if wanted in name.lower()][:_MOST_ZONES])


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(zoneinfo.available_timezones() - _NOT_ZONES))


def _zone(name: str, field: str) -> zoneinfo.ZoneInfo:
    if name in _names():
        return zoneinfo.ZoneInfo(name)
    raise InvalidArgument(field, f"there is no time zone {quote(name)}.", _suggest(name))


def _suggest(name: str) -> str:
    """The zones of nearly that name, or of nearly that place."""
    places: dict[str, str] = {}
    for known in _names():
        places.setdefault(known.rpartition("/")[2].lower(), known)
    places |= {known.lower(): known for known in _names()}
    wanted = name.lower().replace(" ", "_")
    if wanted not in places and len(name) <= _LONGEST_ABBREVIATION and name.isupper():
        return "Abbreviations can mean several zones: give a place such as Asia/Tokyo; list_time_zones names them."
    near = [wanted] if wanted in places else difflib.get_close_matches(wanted, places, n=3, cutoff=0.6)
    names = dict.fromkeys(places[found] for found in near)
    return f"Did you mean {' or '.join(names)}?" if names else "list_time_zones names them."


def _note(moment: datetime, zone: str) -> str:
    # PEP 495: in a gap or a fold the two values of `fold` have different offsets.
    early, late = moment.replace(fold=0).utcoffset(), moment.replace(fold=1).utcoffset()
    if early is None or late is None or early == late:
        return ""
    if early < late:
        return f"this local time does not exist in {zone}: clocks go forward over it; the offset before was taken"
    return f"this local time happens twice in {zone}: clocks go back; the first was taken"


def _describe(moment: datetime, zone: str, note: str = "") -> ZonedTime:
    digits = moment.strftime("%z")
    # Offsets of before the zones had whole minutes end in seconds.
    offset = ":".join((digits[:3], digits[3:5], digits[5:7])).rstrip(":")
    return ZonedTime(
        time=moment.isoformat(),
        zone=zone,
        utc_offset=offset,
        abbreviation=moment.tzname() or "",
        is_daylight_saving=bool(moment.dst()),
        unix_seconds=moment.timestamp(),
        weekday=moment.strftime("%A"),
        note=note,
    )
