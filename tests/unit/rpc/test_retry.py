"""Only what its contract calls idempotent may be sent twice."""

import pytest

from agentmesh.agent.v1 import agent_service_pb2  # noqa: F401 - puts the contract into the pool
from agentmesh.mcp.v1 import mcp_bridge_service_pb2  # noqa: F401
from mesh.rpc.retry import is_retryable


@pytest.mark.parametrize(
    ("method", "retryable"),
    [
        ("/agentmesh.mcp.v1.McpBridgeService/ListTools", True),
        ("/agentmesh.agent.v1.AgentService/GetTask", True),
        ("/agentmesh.mcp.v1.McpBridgeService/CallTool", False),
        ("/agentmesh.mcp.v1.McpBridgeService/Link", False),
        ("/unknown.Service/Method", False),
        ("nonsense", False),
    ],
)
def test_retryable_is_what_the_contract_says(method, retryable):
    assert is_retryable(method) is retryable
