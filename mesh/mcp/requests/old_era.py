"""Requests and results of the modern era (2026-07-28), and what they are for a server of the handshake era. Pure."""

from typing import Any

from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND
from mcp_types.version import LATEST_MODERN_VERSION

from mesh.mcp.frames import dump_json, load_json_object
from mesh.mcp.requests.exchange import Outcome, Request
from mesh.mcp.requests.mux import SUBSCRIPTION_ID

DISCOVER = "server/discover"
LISTEN = "subscriptions/listen"

_RESOURCE_NOT_FOUND = -32002
_OWN_KEYS = "io.modelcontextprotocol/"
# Of the handshake only: the modern era has no such methods, and they would change a session that others use, too.
_REMOVED = frozenset({"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
_CACHEABLE = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", DISCOVER}
)


def is_unknown(method: str) -> bool:
    """Tell whether a method does not exist in the modern era, or is not the caller's to use."""
    return method in _REMOVED or method.startswith("notifications/")


def unknown_method(method: str) -> Outcome:
    """The outcome of a request that the server does not know."""
    return Outcome(error=dump_json({"code": METHOD_NOT_FOUND, "message": f"Method not found: {method}"}))


def to_old_request(request: Request) -> Request:
    """Take out of a request's `_meta` what the handshake era has no use for."""
    if "_meta" not in request.params:
        return request
    meta = {name: value for name, value in request.meta.items() if not name.startswith(_OWN_KEYS)}
    if len(meta) == len(request.meta):
        return request
    params = {**request.params, "_meta": meta}
    if not meta:
        del params["_meta"]
    return Request(request.method, dump_json(params), params)


def to_modern_outcome(request: Request, outcome: Outcome) -> Outcome:
    """Add to a result what the modern era has in every result; nothing else of it changes, not even a space."""
    if outcome.parsed is None:
        return _to_modern_error(request, outcome)
    added: dict[str, Any] = {}
    if "resultType" not in outcome.parsed:
        added["resultType"] = "complete"
    if request.method in _CACHEABLE:
        if "ttlMs" not in outcome.parsed:
            added["ttlMs"] = 0
        if "cacheScope" not in outcome.parsed:
            added["cacheScope"] = "private"
    if not added:
        return outcome
    head = dump_json(added)[:-1]
    text = head + (b"," + outcome.result[1:] if outcome.parsed else b"}")
    return Outcome(text, {**added, **outcome.parsed})


def _to_modern_error(request: Request, outcome: Outcome) -> Outcome:
    """A resource that there is not has another code than before (SEP-2164)."""
    if (
        request.method != "resources/read"
        or outcome.error is None
        or str(_RESOURCE_NOT_FOUND).encode() not in outcome.error
    ):
        return outcome
    error = load_json_object(outcome.error)
    if error.get("code") != _RESOURCE_NOT_FOUND:
        return outcome
    return Outcome(error=dump_json({**error, "code": INVALID_PARAMS}))


def discovery(hello: dict[str, Any]) -> Outcome:
    """Tell what a server said in its handshake as a result of `server/discover`."""
    version = hello.get("protocolVersion")
    result: dict[str, Any] = {
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "supportedVersions": [LATEST_MODERN_VERSION, *([version] if isinstance(version, str) else [])],
        "capabilities": hello.get("capabilities") if isinstance(hello.get("capabilities"), dict) else {},
        "serverInfo": hello.get("serverInfo") if isinstance(hello.get("serverInfo"), dict) else {},
    }
    if isinstance(hello.get("instructions"), str):
        result["instructions"] = hello["instructions"]
    if isinstance(result["serverInfo"], dict) and result["serverInfo"]:
        result["_meta"] = {f"{_OWN_KEYS}serverInfo": result["serverInfo"]}
    return Outcome(dump_json(result), result)


def without_subscription(outcome: Outcome) -> Outcome:
    """Take out of the last result of a subscription the number that it had between bridge and server."""
    meta = None if outcome.parsed is None else outcome.parsed.get("_meta")
    if outcome.parsed is None or not isinstance(meta, dict) or SUBSCRIPTION_ID not in meta:
        return outcome
    result = {**outcome.parsed, "_meta": {name: value for name, value in meta.items() if name != SUBSCRIPTION_ID}}
    return Outcome(dump_json(result), result)
