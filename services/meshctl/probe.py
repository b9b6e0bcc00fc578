"""One real call through the mesh, to show that it works."""

import json

from mesh.config import MeshFile, MeshSettings
from services.meshctl.call import call_tool
from services.meshctl.inspect import read_card, read_tools

_TIMEOUT = 20.0
_KNOWN_CALL = ("financial", "npv", {"rate": 0.1, "cash_flows": [-1000.0, 400.0, 400.0, 400.0]})


async def probe_call(settings: MeshSettings, mesh_file: MeshFile) -> str:
    """Call the first thing that can be called, and say what came back; raises MeshError when nothing does."""
    service, tool, arguments = _KNOWN_CALL
    running = {name: entry for name, entry in mesh_file.services.items() if entry.instances}
    if service in running and tool in {found.name for found in await read_tools(settings, service)}:
        result = await call_tool(settings, service, tool, arguments, timeout=_TIMEOUT, quiet=True)
        return f"meshctl call {service} {tool} '{json.dumps(arguments)}' -> {_brief(result['structured_content'])}"
    for name, entry in running.items():
        if entry.kind == "mcp":
            return f"{name} offers {len(await read_tools(settings, name))} tools"
        if entry.kind == "agent":
            return f"{name} offers {len((await read_card(settings, name)).skills)} skills"
    return "there is no agent and no MCP server to call"


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else f"{text[:117]}..."
