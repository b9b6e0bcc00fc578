"""Which requests a route of the mesh document is for, in Envoy's words."""

import re
from typing import Any

from mesh.config.document import Text
from mesh.config.document.routing import GrpcMatch, Match
from mesh.xds.resources.values import header_matcher, text_matcher


def build_match(match: Match) -> dict[str, Any]:
    """A RouteMatch; a path never includes the query."""
    headers: list[dict[str, Any]] = []
    if match.authority is not None:
        headers.append({"name": ":authority", "string_match": text_matcher(match.authority)})
    if match.http_method is not None:
        headers.append({"name": ":method", "string_match": {"exact": match.http_method}})
    headers += [header_matcher(name, wanted) for name, wanted in sorted(match.headers.items())]
    return build_path(match) | ({"headers": headers} if headers else {})


def build_path(match: Match) -> dict[str, Any]:
    """The path of a RouteMatch, which it cannot do without."""
    if match.grpc is not None:
        return _grpc_path(match.grpc)
    return _path(match.path) if match.path is not None else {"prefix": "/"}


def path_expression(match: Match) -> str:
    """An expression for the whole of a path with its query, for requests that `match` was for."""
    literal = build_path(match)
    if "safe_regex" in literal:
        return f"(?:{literal['safe_regex']['regex']})(?:\\?.*)?"
    if "prefix" in literal:
        return f"{re.escape(literal['prefix'])}.*"
    return f"{re.escape(literal['path'])}(?:\\?.*)?"


def _grpc_path(grpc: GrpcMatch) -> dict[str, Any]:
    return {"prefix": f"/{grpc.service}/"} if grpc.method is None else {"path": f"/{grpc.service}/{grpc.method}"}


def _path(path: Text) -> dict[str, Any]:
    if path.exact is not None:
        return {"path": path.exact}
    if path.prefix is not None:
        return {"prefix": path.prefix}
    if path.suffix is not None:
        expression = f".*{re.escape(path.suffix)}"
    elif path.contains is not None:
        expression = f".*{re.escape(path.contains)}.*"
    else:
        expression = str(path.regex)
    return {"safe_regex": {"regex": expression}}
