from types import SimpleNamespace
from typing import Any

import pytest

from mesh.errors import InvalidInput
from services.gateway.help_desk import HelpDesk


def handler_of(desk: HelpDesk, method: str) -> Any:
    details: Any = SimpleNamespace(method=method, invocation_metadata=())
    return desk.service(details)


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/Info"])
def test_what_the_gateway_serves_itself_is_left_alone(method: str) -> None:
    assert handler_of(HelpDesk(), method) is None


async def test_any_other_call_is_told_how_to_name_a_service() -> None:
    desk = HelpDesk()
    handler = handler_of(desk, "/any.v1.Service/Method")
    assert handler is handler_of(desk, "/other.v1.Service/Method")
    with pytest.raises(InvalidInput, match="x-mesh-service: NAME") as caught:
        await anext(handler.stream_stream(None, None))
    assert caught.value.reason == "NO_SERVICE_NAMED"
