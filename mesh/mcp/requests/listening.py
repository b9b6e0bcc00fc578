"""`subscriptions/listen` for a server of the handshake era, out of what it tells the shared connection."""

from typing import Any

from mesh.mcp.changes import Change, ListChanged
from mesh.mcp.connection import Connection
from mesh.mcp.requests.exchange import Listener, Request
from mesh.mcp.watching import open_watch

_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_LISTS = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}
_RESOURCES = "resourceSubscriptions"
_START_SECONDS = 10.0


async def listen(connection: Connection, request: Request, listener: Listener) -> None:
    """Tell `listener` what the request wants to hear, after an acknowledgement of what it can; ends with an error.

    Raises Unavailable when the connection ends, and what the server answers to `resources/subscribe`.
    """
    honored = honor(connection.capabilities, request.params.get("notifications"))
    uris = frozenset(honored.get(_RESOURCES, ()))
    async with open_watch(connection, uris, timeout=_START_SECONDS) as next_change:
        listener.notify(_ACKNOWLEDGED, {"notifications": honored})
        while True:
            change = await next_change()
            if is_asked(change, honored):
                listener.notify(*notification_of(change))


def honor(capabilities: dict[str, Any], wished: Any) -> dict[str, Any]:
    """Return what of the wished notifications the server can give."""
    wished = wished if isinstance(wished, dict) else {}
    honored: dict[str, Any] = {
        key: True for kind, key in _LISTS.items() if wished.get(key) is True and _can(capabilities, kind, "listChanged")
    }
    uris = wished.get(_RESOURCES)
    if isinstance(uris, list) and _can(capabilities, "resources", "subscribe"):
        honored[_RESOURCES] = [uri for uri in uris if isinstance(uri, str) and uri]
    return honored


def is_asked(change: Change, honored: dict[str, Any]) -> bool:
    """Tell whether somebody listens to a change."""
    return honored.get(_LISTS[change.kind]) is True if isinstance(change, ListChanged) else True


def notification_of(change: Change) -> tuple[str, dict[str, Any]]:
    """Return method and params of the notification of a change."""
    if isinstance(change, ListChanged):
        return f"notifications/{change.kind}/list_changed", {}
    return "notifications/resources/updated", {"uri": change.uri}


def _can(capabilities: dict[str, Any], kind: str, what: str) -> bool:
    found = capabilities.get(kind)
    return isinstance(found, dict) and found.get(what) is True
