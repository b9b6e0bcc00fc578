"""Which pages may connect a WebSocket: browsers ask nobody before they do, unlike for other requests."""

from collections.abc import Sequence

from starlette.requests import HTTPConnection

from mesh.errors import PermissionDenied


def check_origin(connection: HTTPConnection, origins: Sequence[str]) -> None:
    """Raise PermissionDenied for pages of other sites than the edge itself and `origins`, of which "*" is every one.

    Without it any page that somebody looks at could read along where no credential is needed. Who sends no origin is no
    page.
    """
    origin, host = connection.headers.get("origin"), connection.headers.get("host", "").lower()
    if origin is None or "*" in origins or origin in origins:
        return
    if not host or origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise PermissionDenied(
            f"Pages of {origin[:80]} may not connect here.",
            reason="ORIGIN_NOT_ALLOWED",
            field="origin",
            fix="Add it to edge.cors.origins.",
        )
