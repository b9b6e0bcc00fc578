"""lf.a2a.v1.A2AService by the SDK's servicer, on bytes."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.grpc_handler import GrpcHandler, GrpcServerCallContextBuilder
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types import a2a_pb2
from a2a.utils.constants import VERSION_HEADER
from a2a.utils.errors import InvalidParamsError, VersionNotSupportedError
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from mesh.errors import InvalidInput, MeshError
from mesh.rpc import SELECTOR, call_context
from services.gateway.web.a2a.cards import VERSION
from services.gateway.web.a2a.errors import to_a2a
from services.gateway.web.a2a.gate import Asked, Gate
from services.gateway.web.caller import Caller, principal_of

_METHODS = a2a_pb2.DESCRIPTOR.services_by_name["A2AService"].methods_by_name


class GrpcBinding:
    """Answers calls that name an agent which the caller sees."""

    def __init__(self, handler: RequestHandler, gate: Gate) -> None:
        self._servicer = _Servicer(handler, gate)

    async def answer(self, name: str, request: bytes, context: Any) -> bytes:
        """The answer of a unary method."""
        response: Message = await getattr(self._servicer, name)(_read(name, request), context)
        return response.SerializeToString()

    async def stream(self, name: str, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """The answers of a method that streams."""
        async with aclosing(getattr(self._servicer, name)(_read(name, request), context)) as responses:
            async for response in responses:
                yield response.SerializeToString()


class _Servicer(GrpcHandler):
    """The SDK's, with the mesh's way to tell who calls which agent."""

    def __init__(self, handler: RequestHandler, gate: Gate) -> None:
        super().__init__(handler, _Contexts())
        self._gate = gate

    def _build_call_context(self, context: Any, request: Message) -> ServerCallContext:
        """As the SDK does it; errors of this are told to the client as those of A2A."""
        made = super()._build_call_context(context, request)
        headers = made.state["headers"]
        _check_version(headers.get(VERSION_HEADER.lower(), ""))
        named = {name for name in (headers.get(SELECTOR, ""), made.tenant) if name}
        if len(named) != 1:
            raise InvalidParamsError(
                f"The call does not name one agent: send its name as tenant, or in the header {SELECTOR}."
            )
        facts = call_context()
        caller = Caller(
            principal_of(facts.user_token),
            facts.user_token,
            facts.correlation_id,
            headers.get("x-envoy-external-address", ""),
        )
        scheme, host = headers.get("x-forwarded-proto", "http"), headers.get("x-forwarded-host", "")
        asked = made.state["asked"] = Asked(named.pop(), caller, f"{scheme}://{host}")
        try:
            self._gate.check_visible(asked)
        except MeshError as err:
            raise to_a2a(err) from err
        return made


class _Contexts(GrpcServerCallContextBuilder):
    def build(self, context: Any) -> ServerCallContext:
        metadata = context.invocation_metadata() or ()
        return ServerCallContext(state={"headers": {name: value for name, value in metadata if isinstance(value, str)}})


def _check_version(version: str) -> None:
    """Raise VersionNotSupportedError for another one than ours; none said is 0.3, says the specification."""
    if version.split(".")[0] != VERSION.split(".")[0]:
        raise VersionNotSupportedError(f"A2A {version or '0.3'} is not spoken here; {VERSION} is.")


def _read(name: str, request: bytes) -> Message:
    try:
        return GetMessageClass(_METHODS[name].input_type).FromString(request)
    except DecodeError as err:
        raise InvalidInput("The message cannot be read.", fix="Send the one of lf.a2a.v1.") from err
