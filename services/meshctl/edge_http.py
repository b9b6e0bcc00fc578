"""What meshctl asks of the edge over HTTP."""

from typing import Any

import aiohttp

from mesh.errors import (
    InvalidInput,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.meshctl.edge import Edge

_TIMEOUT = aiohttp.ClientTimeout(total=20)

_KINDS: dict[int, type[MeshError]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    429: ResourceExhausted,
}
# Codes of RFC 6749, section 5.2, that tell of a credential that does not hold.
_NOT_HELD = ("INVALID_GRANT", "INVALID_CLIENT", "EXPIRED_TOKEN", "ACCESS_DENIED")


async def get(edge: Edge, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Ask the edge; raises MeshError with its own words when it refuses, Unavailable when it does not answer."""
    return await _ask(edge, "GET", path, headers=headers)


async def post(
    edge: Edge, path: str, *, form: dict[str, str] | None = None, json_body: dict[str, str] | None = None
) -> dict[str, Any]:
    """As `get`, with a form or JSON."""
    return await _ask(edge, "POST", path, data=form, json=json_body)


async def _ask(edge: Edge, method: str, path: str, **what: Any) -> dict[str, Any]:
    tls = edge.tls_context()
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            # Passwords and tokens go where they were meant to go, and nowhere else.
            session.request(method, f"{edge.url}{path}", ssl=tls, allow_redirects=False, **what) as response,
        ):
            status = response.status
            answer = await response.json(content_type=None) if response.content_length != 0 else {}
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
        words = str(err) or type(err).__name__
        raise Unavailable(f"The edge at {edge.url} does not answer: {words}.", fix="See `meshctl doctor`.") from err
    facts = answer if isinstance(answer, dict) else {}
    if status >= 300:
        raise _refused(status, facts)
    return facts


def _refused(status: int, answer: dict[str, Any]) -> MeshError:
    reason = str(answer.get("reason") or answer.get("error") or "EDGE_REFUSED").upper()
    words = str(answer.get("error_description") or answer.get("detail") or f"The edge has answered {status}.")
    kind = Unauthenticated if reason in _NOT_HELD else _KINDS.get(status, Unavailable)
    return kind(words, reason=reason, field=str(answer.get("field") or ""), fix=str(answer.get("fix") or ""))
