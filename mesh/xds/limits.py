"""How much one client may ask for. What it names is remembered, and must not hurt others."""

from collections.abc import Iterable

from mesh.errors import InvalidInput, ResourceExhausted
from mesh.model import SpiffeId
from mesh.xds import names

MOST_NAMES = 20_000
"""Resources of one type; far more than a mesh has services."""

LONGEST_NAME = 1_000
"""Characters of a name or a version; those of a mesh have fewer than a hundred."""

LONGEST_COMPLAINT = 2_000
"""Characters that are kept of what a client says of a response that it refuses."""

MOST_TYPES = 16
"""Types of resources, those included that are not served here."""

MOST_STREAMS = 2_000
"""Streams of one identity: one for each instance of a service, and a second one while it reconnects."""


def check_types(urls: set[str]) -> None:
    """Raise InvalidInput when there are more types than there is sense in."""
    if len(urls) > MOST_TYPES:
        raise InvalidInput(
            "A proxy asks for too many types of resources.",
            field="type_url",
            fix=f"Ask for some of {', '.join(names.SHORT_NAMES)}.",
        )


def check_lengths(*said: Iterable[str]) -> None:
    """Raise InvalidInput when a name or a version is too long to be one: they are remembered."""
    if any(len(text) > LONGEST_NAME for texts in said for text in texts):
        raise InvalidInput(
            "A proxy asks for a resource with a name that is too long.",
            field="resource_names",
            fix=f"Ask for names of at most {LONGEST_NAME} characters.",
        )


def check_count(url: str, count: int) -> None:
    """Raise ResourceExhausted when there are too many names of one type."""
    if count > MOST_NAMES:
        kind = names.SHORT_NAMES.get(url, url[:200])
        raise ResourceExhausted(
            f"A proxy asks for {count} resources of type {kind}; at most {MOST_NAMES} are served.",
            reason="TOO_MANY_NAMES",
            fix="Declare fewer upstreams.",
            retryable=False,
        )


def check_streams(identity: SpiffeId, count: int) -> None:
    """Raise ResourceExhausted when an identity has too many streams."""
    if count > MOST_STREAMS:
        raise ResourceExhausted(
            f"{identity} has {MOST_STREAMS} streams already, which is the most that one identity may have.",
            reason="TOO_MANY_STREAMS",
            fix="Each proxy needs one; see `meshctl proxies` for who has them.",
        )
