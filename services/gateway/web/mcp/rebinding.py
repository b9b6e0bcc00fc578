"""Pages of other sites must not speak to MCP servers by way of somebody's browser (DNS rebinding).

https://modelcontextprotocol.io/specification/2026-07-28/basic/transports#security-warning
"""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from mesh.errors import PermissionDenied

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def check_page(headers: Mapping[str, str], origins: Sequence[str]) -> None:
    """Raise PermissionDenied for what a page of another site sends.

    Who sends no origin is no page. `origins` are those of the mesh document, of which "*" is every one. Besides these
    only pages of this machine count: that a page has the same name as the edge proves nothing, since whoever has the
    name decides where it leads to.
    """
    origin = headers.get("origin")
    if origin is None or "*" in origins or origin in origins:
        return
    if (urlsplit(origin).hostname or "") in _LOOPBACK and _host_of(headers) in _LOOPBACK:
        return
    raise PermissionDenied(
        f"Pages of {origin[:80]} may not speak here.",
        reason="ORIGIN_NOT_ALLOWED",
        field="origin",
        fix="Add it to edge.cors.origins.",
    )


def _host_of(headers: Mapping[str, str]) -> str:
    return urlsplit(f"//{headers.get('host', '')}").hostname or ""
