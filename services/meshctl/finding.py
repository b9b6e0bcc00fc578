"""What was looked at, and what was found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fix` is empty when it is well."""

    what: str
    is_well: bool
    found: str
    fix: str = ""
