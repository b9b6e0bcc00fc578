"""Names of what several servers offer: each says where it is from, none is too long for hosts, none means two things.

utilities + convert_units             utilities__convert_units
utilities + files/read, or too long   utilities__files-read--k3v7q2m5xa    (the end is a hash of both)
utilities + file:///notes.txt         utilities+file:///notes.txt
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

LONGEST = 64
"""Characters: what the strictest of the known hosts and models allow."""

_HASH = 10
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_HASHED = re.compile(r".*--[a-z2-7]{10}\Z", re.DOTALL)
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]+")
_BETWEEN = "__"


@lru_cache(maxsize=65536)
def federated_name(server: str, name: str) -> str:
    """The name of a server's tool or prompt among those of all; the same for ever, whatever else there is.

    Names of services have no underscore, so the first two of them end the server. A name that looks as if it had been
    hashed is hashed itself: a plain one and a hashed one are never the same.
    """
    plain = f"{server}{_BETWEEN}{name}"
    if len(plain) <= LONGEST and _PLAIN.fullmatch(plain) and not _HASHED.match(plain):
        return plain
    digest = hashlib.sha256(f"{server}\0{name}".encode("utf-8", "surrogatepass")).digest()
    end = "--" + base64.b32encode(digest).decode().lower()[:_HASH]
    return _FOREIGN.sub("-", plain)[: LONGEST - len(end)] + end


class Names:
    """The way back from names, also from those that only somebody who knows all of them can tell."""

    def __init__(self, offered: Iterable[tuple[str, str]] = ()) -> None:
        self._hashed = {
            made: (server, name) for server, name in offered if _HASHED.match(made := federated_name(server, name))
        }

    def split(self, name: str) -> tuple[str, str] | None:
        """Server and name at the server; None for what can be no name of ours, or is not offered any more."""
        if _HASHED.match(name):
            return self._hashed.get(name)
        server, between, rest = name.partition(_BETWEEN)
        return (server, rest) if between and server and rest else None


def federated_uri(server: str, uri: str) -> str:
    """The URI, or template of URIs, of a server's resource among those of all."""
    return f"{server}+{uri}"


def split_uri(uri: str) -> tuple[str, str] | None:
    """Server and URI at the server; None for what is no URI of ours."""
    server, plus, rest = uri.partition("+")
    return (server, rest) if plus and server and rest and ":" not in server else None
