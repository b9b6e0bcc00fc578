"""Opaque marks of places in lists: the key of an item, so that what comes and goes meanwhile moves nothing."""

import base64
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

from mesh.errors import InvalidInput

T = TypeVar("T")


def build_cursor(key: str) -> str:
    """The mark of an item."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def parse_cursor(text: str, field: str) -> str:
    """The key in a mark. Raises InvalidInput, which names `field`, for what `build_cursor` has not made."""
    try:
        key = base64.b64decode(text, altchars=b"-_", validate=True).decode()
    except ValueError as err:
        raise _no_cursor(field) from err
    if build_cursor(key) != text:
        raise _no_cursor(field)
    return key


def take_after(items: Sequence[T], key: str, key_of: Callable[[T], str], count: int) -> tuple[Sequence[T], bool]:
    """Up to `count` items behind `key` of a list that is sorted by what `key_of` gives, and whether there are more.

    "" is in front of all. The key itself need not be there any more.
    """
    start = bisect_right(items, key, key=key_of) if key else 0
    return items[start : start + count], start + count < len(items)


def _no_cursor(field: str) -> InvalidInput:
    return InvalidInput("This marks no place in a list.", field=field, fix="Send the mark that you were given.")
