"""Whether a request is what a part of the mesh document means: the words of Envoy's matchers, in Python.

Expressions are RE2 in Envoy and Python's own here; documents use what both have.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.config.document import HeaderMatch
from mesh.config.document.routing import GrpcMatch, Match


@dataclass(frozen=True, slots=True)
class Request:
    """A request as Envoy sees it. `path` may have a query; `headers` are in lower case."""

    authority: str
    path: str
    headers: Mapping[str, str]
    http_method: str = "POST"

    @property
    def bare_path(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]


def matches_header(match: HeaderMatch, value: str | None) -> bool:
    """True when a header, None for one that is not there, is what it is to be."""
    if match.text is None:
        return ((value is not None) is match.present) is not match.invert
    if match.invert:
        return not match.text.fits(value or "")
    return value is not None and match.text.fits(value)


def matches_headers(wanted: Mapping[str, HeaderMatch], headers: Mapping[str, str]) -> bool:
    """True when all headers are what they are to be."""
    return all(matches_header(match, headers.get(name)) for name, match in wanted.items())


def matches(match: Match, request: Request) -> bool:
    """True when a route is for the request."""
    return (
        (match.authority is None or match.authority.fits(request.authority))
        and (match.http_method is None or match.http_method == request.http_method)
        and (match.path is None or match.path.fits(request.bare_path))
        and (match.grpc is None or _matches_grpc(match.grpc, request.bare_path))
        and matches_headers(match.headers, request.headers)
    )


def matches_method(pattern: str, path: str) -> bool:
    """True when a path is one that an intention names: PACKAGE.SERVICE/METHOD, PACKAGE.SERVICE/*, /PATH or "*"."""
    if pattern == "*":
        return True
    wanted = pattern if pattern.startswith("/") else f"/{pattern}"
    return path.startswith(wanted[:-1]) if wanted.endswith("*") else path == wanted


def _matches_grpc(grpc: GrpcMatch, path: str) -> bool:
    prefix = f"/{grpc.service}/"
    return path.startswith(prefix) if grpc.method is None else path == f"{prefix}{grpc.method}"
