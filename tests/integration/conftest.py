"""What several rooms need to be tested with a real Envoy."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import grpc
import pytest

from services.gateway.guard.check import METHOD
from services.gateway.guard.messages import AUTHORIZATION, message
from services.gateway.guard.server import open_guard


class _LetsIn(grpc.GenericRpcHandler):
    """Answers every question of an edge with yes."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method != METHOD:
            return None
        response = message(f"{AUTHORIZATION}.CheckResponse")()
        response.ok_response.SetInParent()

        async def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            return response.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(scope="session")
def open_lenient_guard() -> Callable[[str], AbstractAsyncContextManager[None]]:
    """Serves, at the path of a socket, a guard that lets everybody in: for tests of what comes after it."""
    return lambda path: open_guard(f"unix:{path}", [_LetsIn()])
