"""Requests as JSON text: what is asked, what comes back, and who carries it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_types import LOG_LEVEL_META_KEY

from mesh.errors import InvalidInput
from mesh.mcp.frames import dump_json, load_json_object

_PROGRESS_KEY = "progressToken"
_MARK = b"progressToken"
# It is sent in an HTTP header, too.
_METHOD = re.compile(r"[\x21-\x7e]{1,200}")


class Lost(Exception):
    """The connection ended before the answer came; whoever owns the connection knows why."""


class Unreadable(Exception):
    """The answer came and could not be read; says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `text` is its params as they came, `params` what they say."""

    method: str
    text: bytes
    params: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """Its `_meta`, or nothing."""
        found = self.params.get("_meta")
        return found if isinstance(found, dict) else {}

    @property
    def log_level(self) -> str | None:
        """The lightest log messages that it wants, or None."""
        found = self.meta.get(LOG_LEVEL_META_KEY)
        return found if isinstance(found, str) else None

    @property
    def progress_token(self) -> str | int | None:
        """The caller's progress token."""
        found = self.meta.get(_PROGRESS_KEY) if _MARK in self.text else None
        return found if isinstance(found, str | int) and not isinstance(found, bool) else None

    def text_with_token(self, token: int | None) -> bytes:
        """Return the params with another progress token, or with none; all else stays byte for byte if it can."""
        if _MARK not in self.text or _PROGRESS_KEY not in self.meta:
            return self.text
        meta = {name: value for name, value in self.meta.items() if name != _PROGRESS_KEY}
        if token is not None:
            meta[_PROGRESS_KEY] = token
        return dump_json({**self.params, "_meta": meta})


def parse_request(method: str, text: bytes, *, max_bytes: int) -> Request:
    """Read a request. Raises InvalidInput unless it has a method and its params are a JSON object, or empty."""
    if _METHOD.fullmatch(method) is None:
        raise InvalidInput("The method is not 1 to 200 visible ASCII characters.", field="method")
    if len(text) > max_bytes:
        raise InvalidInput(
            f"{len(text)} bytes are more than the {max_bytes} that a frame may have.",
            field="params",
            fix="Send less, or raise the bridge's --max-frame-bytes.",
        )
    text = text or b"{}"
    try:
        params = load_json_object(text)
    except ValueError as err:
        raise InvalidInput(f"The bytes are not a JSON object: {err}.", field="params") from None
    if b"\n" in text or b"\r" in text:
        # Outside of strings, where JSON has no raw line breaks, one is as good as a space.
        text = text.replace(b"\r", b" ").replace(b"\n", b" ")
    return Request(method, text, params)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request came to: the text of a result, with what it says, or else the text of a JSON-RPC error."""

    result: bytes = b""
    parsed: Mapping[str, Any] | None = None
    error: bytes = b""


class Listener(Protocol):
    """Takes what the server says while a request runs. Called in order, from the event loop; never waits."""

    @property
    def log_level(self) -> str | None:
        """The lightest log messages that it wants, or None."""
        ...

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Take a notification; progress has the caller's own token already."""
        ...


class Exchange(Protocol):
    """Carries requests of the modern era to a server.

    `on_notify` is told notifications that belong to no single request, by method and params, before the SDK is; where
    it returns True, the SDK is not told.
    """

    on_notify: Callable[[str, dict[str, Any]], bool]

    async def ask(self, request: Request, headers: Mapping[str, str], listener: Listener | None) -> Outcome:
        """Send a request and wait for its outcome; cancelling cancels it at the server.

        `headers` are for transports that have such. Raises Lost and Unreadable, and MeshError for a server that cannot
        be asked.
        """
        ...
