"""Connections: pages of lists, https://relay.dev/graphql/connections.htm."""

import base64
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import strawberry

from mesh.errors import InvalidInput

MOST = 100
"""Items in a page."""

T = TypeVar("T")


@strawberry.type(description="Where a page lies in its list.")
class PageInfo:
    """Relay's PageInfo, for going forward."""

    has_next_page: bool
    end_cursor: str | None


@strawberry.type(description="A page of a list.")
class Page(Generic[T]):
    """Items in order."""

    nodes: list[T]
    page_info: PageInfo
    total_count: int


def take(items: Sequence[T], first: int, after: str | None, key_of: Callable[[T], str]) -> Page[T]:
    """The page of a list that is sorted by what `key_of` gives; a cursor is that of its last item."""
    if not 1 <= first <= MOST:
        raise InvalidInput(f"A page has 1 to {MOST} items.", field="first", fix=f"Ask for at most {MOST}.")
    start = 0
    if after is not None:
        try:
            key = base64.urlsafe_b64decode(after.encode()).decode()
        except (ValueError, UnicodeError) as err:
            raise InvalidInput(
                "This is no cursor.", field="after", fix="Send an endCursor that you were given."
            ) from err
        keys = [key_of(item) for item in items]
        start = keys.index(key) + 1 if key in keys else sum(known <= key for known in keys)
    page = list(items[start : start + first])
    cursor = base64.urlsafe_b64encode(key_of(page[-1]).encode()).decode() if page else None
    return Page(
        nodes=page,
        page_info=PageInfo(has_next_page=start + first < len(items), end_cursor=cursor),
        total_count=len(items),
    )
