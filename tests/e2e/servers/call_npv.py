"""What a user writes: a typed stub, and nothing of the mesh's own code."""

import sys

import grpc

from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    bridge = mcp_bridge_service_pb2_grpc.McpBridgeServiceStub(channel)
    request = mcp_bridge_service_pb2.CallToolRequest(name="npv", arguments=sys.argv[2].encode())
    for response in bridge.CallTool(request, timeout=10, metadata=[("x-mesh-service", "financial")]):
        if response.HasField("result"):
            print(response.result.structured_content.decode())
