"""Responses, and their bytes put together from the bytes of the resources.

A resource is serialized once, when it is built. Building a message for each stream would copy it, and parse and
serialize what is around it, a thousand times. Protobuf's wire format allows to write a message by joining its fields:
https://protobuf.dev/programming-guides/encoding/ , "Message Structure".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from mesh.xds.resources import Resource

_LENGTH_DELIMITED = 2

_CONTENTS = 64
"""Responses of which the bytes are kept: a change reaches many streams within a moment, and few changes do at once."""

_LARGEST_SHARED = 16 << 10
"""Bytes of resources; what is larger is sent to few, and not worth its memory."""

# google.protobuf.Any
_ANY_TYPE_URL, _ANY_VALUE = 1, 2
# envoy.service.discovery.v3.Resource
_RESOURCE_VERSION, _RESOURCE_ANY, _RESOURCE_NAME = 1, 2, 3
# The same in DeltaDiscoveryResponse and DiscoveryResponse.
_VERSION, _RESOURCES, _TYPE_URL, _NONCE = 1, 2, 4, 5
# DeltaDiscoveryResponse
_REMOVED_RESOURCES = 6


@dataclass(frozen=True, slots=True)
class DeltaResponse:
    """A DeltaDiscoveryResponse. `version` names the state that it was built from."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...] = ()
    removed_resources: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The message as it goes over the wire."""
        # The order of fields is free: what is the same for many streams comes first.
        is_small = 0 < sum(len(resource.body) for resource in self.resources) <= _LARGEST_SHARED
        content = (_shared_content if is_small else _content)(self.type_url, self.version, self.resources)
        removed = [_text(_REMOVED_RESOURCES, name) for name in self.removed_resources]
        return b"".join((content, *removed, _text(_NONCE, self.nonce)))


@dataclass(frozen=True, slots=True)
class StateResponse:
    """A DiscoveryResponse. `version` names the state that it was built from."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...] = ()

    def to_bytes(self) -> bytes:
        """The message as it goes over the wire."""
        return b"".join(self._parts())

    def _parts(self) -> Iterator[bytes]:
        yield _text(_VERSION, self.version)
        for resource in self.resources:
            head = _any_head(resource)
            yield _tag(_RESOURCES, len(head) + len(resource.body))
            yield head
            yield resource.body
        yield _text(_TYPE_URL, self.type_url)
        yield _text(_NONCE, self.nonce)


Response = DeltaResponse | StateResponse


def _content(type_url: str, version: str, resources: tuple[Resource, ...]) -> bytes:
    """What a DeltaDiscoveryResponse says of resources that there are."""
    parts = [_text(_VERSION, version)]
    for resource in resources:
        any_head = _any_head(resource)
        any_size = len(any_head) + len(resource.body)
        head = b"".join(
            (
                _text(_RESOURCE_VERSION, resource.version),
                _text(_RESOURCE_NAME, resource.name),
                _tag(_RESOURCE_ANY, any_size),
                any_head,
            )
        )
        parts += (_tag(_RESOURCES, len(head) + len(resource.body)), head, resource.body)
    parts.append(_text(_TYPE_URL, type_url))
    return b"".join(parts)


_shared_content = lru_cache(maxsize=_CONTENTS)(_content)


def _any_head(resource: Resource) -> bytes:
    """All of a google.protobuf.Any but the value itself."""
    return _text(_ANY_TYPE_URL, resource.type_url) + _tag(_ANY_VALUE, len(resource.body))


def _text(field: int, text: str) -> bytes:
    value = text.encode()
    return _tag(field, len(value)) + value


def _tag(field: int, size: int) -> bytes:
    """The start of a field of `size` bytes; all fields here have numbers below 16, so the tag is one byte."""
    head = field << 3 | _LENGTH_DELIMITED
    if size < 0x80:
        return bytes((head, size))
    found = bytearray((head,))
    while size >= 0x80:
        found.append(size & 0x7F | 0x80)
        size >>= 7
    found.append(size)
    return bytes(found)
