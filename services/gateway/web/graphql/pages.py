"""Connections: pages of lists, https://relay.dev/graphql/connections.htm, for going forward."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import strawberry

from mesh.errors import InvalidInput
from services.gateway.cursors import build_cursor, parse_cursor, take_after
from services.gateway.web.graphql.limits import MOST_IN_PAGE

T = TypeVar("T")


@strawberry.type(description="Where a page lies in its list.")
class PageInfo:
    """Relay's PageInfo."""

    has_next_page: bool
    end_cursor: str | None = strawberry.field(description="For `after` of the next page.")


@strawberry.type(description="A page of a list.")
class Connection(Generic[T]):
    """Items in order. There are no edges: the one cursor that is of use is that of the last item."""

    nodes: list[T]
    page_info: PageInfo
    total_count: int | None = strawberry.field(description="Items of the whole list; null where nobody counts them.")


def check_first(first: int) -> None:
    """Raises InvalidInput for a page that is empty or too long."""
    if not 1 <= first <= MOST_IN_PAGE:
        raise InvalidInput(
            f"A page has 1 to {MOST_IN_PAGE} items.",
            field="first",
            fix=f"Ask for at most {MOST_IN_PAGE}, and with `after` for the next ones.",
        )


def take(items: Sequence[T], first: int, after: str | None, key_of: Callable[[T], str]) -> tuple[Sequence[T], PageInfo]:
    """A page of a list that is sorted by what `key_of` gives, and where it lies."""
    check_first(first)
    key = parse_cursor(after, "after") if after else ""
    page, has_more = take_after(items, key, key_of, first)
    return page, PageInfo(has_next_page=has_more, end_cursor=build_cursor(key_of(page[-1])) if page else None)
