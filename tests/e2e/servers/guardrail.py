"""A guardrail: refuses what asks for "evil", takes "please" out of arguments, signs results, is away for "away"."""

import asyncio
import json
import os
import signal
import sys

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agentmesh.gateway.v1 import guardrail_service_pb2 as pb
from agentmesh.gateway.v1 import guardrail_service_pb2_grpc as pb_grpc


class Guardrail(pb_grpc.GuardrailServiceServicer):
    async def CheckCall(self, request, context):
        arguments = json.loads(request.call.arguments)
        text = arguments.get("text", "")
        if "evil" in text:
            summary = f"{request.call.principal} must not say that."
            return pb.CheckCallResponse(denial=pb.Denial(summary=summary, reason="EVIL"))
        if "away" in text:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "I am away.")
        if "please" in text:
            return pb.CheckCallResponse(arguments=json.dumps({"text": text.replace("please ", "")}).encode())
        return pb.CheckCallResponse()

    async def CheckResult(self, request, context):
        result = json.loads(request.result)
        result["content"].append({"type": "text", "text": f"checked for {request.call.tool}"})
        return pb.CheckResultResponse(result=json.dumps(result).encode())


async def main() -> None:
    server = grpc.aio.server()
    pb_grpc.add_GuardrailServiceServicer_to_server(Guardrail(), server)
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(os.environ["MESH_LISTEN"])
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(10)


sys.exit(asyncio.run(main()))
