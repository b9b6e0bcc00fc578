"""Which of the public methods are reads."""

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions

from mesh.rpc.contracts import PUBLIC, find_reads, public_reads

LIST_TOOLS = "agentmesh.mcp.v1.McpBridgeService/ListTools"


def test_reads_are_answered_once_and_change_nothing() -> None:
    methods = {f"{service.full_name}/{method.name}": method for service in PUBLIC for method in service.methods}
    assert LIST_TOOLS in public_reads()
    for name in public_reads():
        method = methods[name]
        assert method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        assert not (method.client_streaming or method.server_streaming)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (LIST_TOOLS, 1),
        ("agentmesh.mcp.v1.McpBridgeService/CallTool", 0),
        ("agentmesh.mcp.v1.McpBridgeService/Watch", 0),
        ("agentmesh.gateway.v1.CatalogService/*", 0),
        ("some.other.Service/*", 0),
        ("/v1/servers", 0),
        ("*", len(public_reads())),
    ],
)
def test_a_pattern_is_about_reads_only(pattern: str, count: int) -> None:
    assert len(find_reads(pattern)) == count


def test_a_service_with_a_star_is_all_of_its_reads() -> None:
    found = find_reads("agentmesh.mcp.v1.McpBridgeService/*")
    assert LIST_TOOLS in found
    assert all(name.startswith("agentmesh.mcp.v1.McpBridgeService/") for name in found)
