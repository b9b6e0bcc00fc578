"""What is behind a door: something that answers requests in the modern form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from services.gateway.web.caller import Caller
from services.gateway.web.mcp.wire import CLIENT_CAPABILITIES, LOG_LEVEL, METHOD_NOT_FOUND, Outcome, failure

_ASKABLE = ("elicitation", "sampling", "roots")
_LONG = frozenset({"tools/call", "prompts/get", "resources/read", "tasks/result"})


@dataclass(frozen=True, slots=True)
class HostRequest:
    """A request of a host in the form of 2026-07-28, whatever the host speaks.

    `params` has "_meta", which is `meta`, with the revision, the client and its capabilities. `door` is the path at
    which it came.
    """

    caller: Caller
    door: str
    method: str
    params: Mapping[str, Any]
    meta: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The tool, prompt or resource that it is about; "" when about none."""
        name = self.params.get("uri" if self.method == "resources/read" else "name")
        return name if isinstance(name, str) else ""

    @property
    def can_be_asked(self) -> bool:
        """Whether the host answers questions of servers."""
        capabilities = self.meta.get(CLIENT_CAPABILITIES)
        return isinstance(capabilities, dict) and any(name in capabilities for name in _ASKABLE)

    @property
    def is_long(self) -> bool:
        """Whether answering may take as long as people do."""
        return self.method in _LONG

    @property
    def has_only_result(self) -> bool:
        """Whether nothing but its outcome is ever told or asked because of it."""
        if "progressToken" in self.meta or LOG_LEVEL in self.meta or self.method == "subscriptions/listen":
            return False
        return not (self.is_long and self.can_be_asked)


class Host(Protocol):
    """The way back to a host while one request of it runs."""

    async def tell(self, method: str, params: bytes) -> None:
        """Pass on a notification; `params` is JSON of an object, or empty."""
        ...

    async def ask(self, method: str, params: bytes) -> Outcome:
        """Ask the host something and wait for its answer."""
        ...


class Nobody:
    """The way to a host to which nothing can be said."""

    async def tell(self, method: str, params: bytes) -> None:
        """Drop it."""

    async def ask(self, method: str, params: bytes) -> Outcome:
        """There is nobody to ask."""
        return failure(METHOD_NOT_FOUND, "The host cannot be asked now.")


class Backend(Protocol):
    """One server, or all of them."""

    async def serve(self, request: HostRequest, host: Host) -> Outcome:
        """Answer a request; cancelling cancels it. Raises MeshError when it did not get as far as a server."""
        ...

    def schema_with_headers(self, tool: str) -> Mapping[str, Any] | None:
        """The schema of a tool some of whose arguments are to be repeated in headers; None for all others."""
        ...
