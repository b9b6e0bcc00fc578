"""The MCP bridge: serves agentmesh.mcp.v1.McpBridgeService in front of any MCP server."""
