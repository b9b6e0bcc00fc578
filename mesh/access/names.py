"""How users, roles and labels may be called."""

import re
from collections.abc import Iterable

from mesh.errors import InvalidInput

_USER = re.compile(r"[a-z][a-z0-9.-]{0,62}")
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_LONGEST_LABEL = 200
_MOST_ROLES = 100


def check_user_name(name: str) -> None:
    """Raise InvalidInput unless it can be the name of a user."""
    if _USER.fullmatch(name) is None:
        raise InvalidInput(
            f"{name[:80]!r} is not the name of a user.",
            field="name",
            fix="Use lower-case letters, digits, dots and dashes, starting with a letter, at most 63 characters.",
        )


def check_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """The roles, sorted, each once; raises InvalidInput for what cannot be the name of a role."""
    found = sorted(set(roles))
    for role in found:
        if _ROLE.fullmatch(role) is None:
            raise InvalidInput(
                f"{role[:80]!r} is not the name of a role.",
                field="roles",
                fix="Use lower-case letters, digits and dashes, starting with a letter.",
            )
    if len(found) > _MOST_ROLES:
        raise InvalidInput(f"{len(found)} roles are too many.", field="roles", fix=f"Give at most {_MOST_ROLES}.")
    return tuple(found)


def check_label(label: str) -> None:
    """Raise InvalidInput unless it is a short line."""
    if len(label) > _LONGEST_LABEL or not label.isprintable():
        raise InvalidInput(
            "The label is no short line.", field="label", fix=f"Use at most {_LONGEST_LABEL} printable characters."
        )
