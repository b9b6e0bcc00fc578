"""Services that are asked about calls: agentmesh.gateway.v1.GuardrailService."""

import json
from collections.abc import Sequence
from typing import Any

import grpc

from agentmesh.gateway.v1 import guardrail_service_pb2 as pb
from agentmesh.gateway.v1 import guardrail_service_pb2_grpc as pb_grpc
from mesh.config.document.tools import Guardrail
from mesh.errors import PermissionDenied, Unavailable
from mesh.telemetry import get_logger
from services.gateway.channels import Channels

_log = get_logger(__name__)

Named = tuple[str, Guardrail]


class Guardrails:
    """Asks them one after the other, each with what the one before has made of it."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def before(self, guardrails: Sequence[Named], call: pb.ToolInvocation) -> pb.ToolInvocation:
        """The call as it is to be made. Raises PermissionDenied when one refuses it, Unavailable when one is away."""
        for name, guardrail in guardrails:
            if not guardrail.before:
                continue
            answer = await self._ask(name, guardrail, "CheckCall", pb.CheckCallRequest(call=call))
            match answer and answer.WhichOneof("verdict"):
                case "denial":
                    raise _denied(name, answer.denial)
                case "arguments":
                    arguments = _checked(name, answer.arguments)
                    call = pb.ToolInvocation.FromString(call.SerializeToString())
                    call.arguments = arguments
        return call

    async def after(self, guardrails: Sequence[Named], call: pb.ToolInvocation, result: bytes) -> bytes:
        """The result as the host is to get it. Raises as `before` does."""
        for name, guardrail in guardrails:
            if not guardrail.after:
                continue
            request = pb.CheckResultRequest(call=call, result=result)
            answer = await self._ask(name, guardrail, "CheckResult", request)
            match answer and answer.WhichOneof("verdict"):
                case "denial":
                    raise _denied(name, answer.denial)
                case "result":
                    result = _checked(name, answer.result)
        return result

    async def _ask(self, name: str, guardrail: Guardrail, method: str, request: Any) -> Any:
        """The answer; None when there is none and calls pass all the same."""
        async with self._channels.use(guardrail.service) as channel:
            stub: Any = pb_grpc.GuardrailServiceStub(channel)
            try:
                return await getattr(stub, method)(request, timeout=guardrail.timeout.total_seconds())
            except grpc.aio.AioRpcError as err:
                _log.warning("guardrail_failed", guardrail=name, code=err.code().name, error=err.details() or "")
                if guardrail.on_failure == "open":
                    return None
                raise Unavailable(
                    f"The guardrail {name} does not answer, and without it the call is not made.",
                    reason="GUARDRAIL_AWAY",
                    fix="Try again.",
                ) from err


def _denied(name: str, denial: pb.Denial) -> PermissionDenied:
    summary = denial.summary or f"The guardrail {name} refuses it."
    return PermissionDenied(summary, reason=denial.reason or "GUARDRAIL")


def _checked(name: str, text: bytes) -> bytes:
    """What a guardrail has made, if it is JSON of an object. Raises Unavailable for anything else."""
    try:
        is_object = isinstance(json.loads(text), dict)
    except ValueError:
        is_object = False
    if not is_object:
        _log.warning("guardrail_failed", guardrail=name, code="", error="it has answered with no JSON object")
        raise Unavailable(f"The guardrail {name} has answered with no JSON object.", reason="GUARDRAIL_BROKEN")
    return text
