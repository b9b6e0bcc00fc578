"""What a client hears whose call names no service of the mesh."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from mesh.errors import InvalidInput

_OWN = ("/grpc.health.v1.", "/grpc.reflection.")


class HelpDesk(grpc.GenericRpcHandler):
    """Answers every call that came to the gateway itself, health and reflection apart, with how to name a service."""

    def __init__(self) -> None:
        # One for all: the server wraps each handler that it sees, and remembers it.
        self._handler: Any = grpc.stream_stream_rpc_method_handler(_explain)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of any method; None for those that the gateway serves."""
        return None if handler_call_details.method.startswith(_OWN) else self._handler


async def _explain(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    raise InvalidInput(
        "The call does not say which service of the mesh it is for.",
        reason="NO_SERVICE_NAMED",
        field="x-mesh-service",
        fix="Send the header `x-mesh-service: NAME`, or use the authority NAME.mesh. `meshctl status` lists the names.",
    )
    yield b""
