"""Reads what a reader wants, out of a query or a message."""

from typing import Any

from starlette.requests import HTTPConnection

from mesh.errors import InvalidInput
from mesh.model import check_service_name
from services.gateway.web.events.event import TYPES, Wanted

_MOST_SERVICES = 100


def parse_query(connection: HTTPConnection) -> Wanted:
    """types=A,B&services=C,D; each may stand there more than once. Raises InvalidInput."""
    return parse_wanted(_words(connection, "types"), _words(connection, "services"))


def parse_wanted(types: Any, services: Any) -> Wanted:
    """Lists of texts, empty for all of them. Raises InvalidInput that says what there is."""
    for name, words in (("types", types), ("services", services)):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InvalidInput("A list of texts is needed.", field=name, fix="Leave it out for all.")
    if len(services) > _MOST_SERVICES:
        raise InvalidInput(
            f"At most {_MOST_SERVICES} services can be named.", field="services", fix="Leave it out for all."
        )
    unknown = sorted(set(types) - set(TYPES))
    if unknown:
        raise InvalidInput(
            f"There are no events of type {unknown[0][:40]!r}.", field="types", fix=f"Use {', '.join(TYPES)}."
        )
    for service in services:
        check_service_name(service, field="services")
    return Wanted(frozenset(types), frozenset(services))


def _words(connection: HTTPConnection, name: str) -> list[str]:
    return [word for text in connection.query_params.getlist(name) for word in text.split(",") if word]
