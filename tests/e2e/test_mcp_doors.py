"""MCP through the edge, with the SDK's client in both eras, on servers of both eras: through real Envoys."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

RAW = Path(__file__).parents[1] / "integration" / "mcp" / "servers" / "raw_server.py"
MESH = f"""\
services:
  old: {{kind: mcp, command: [python, {RAW}]}}
  new: {{kind: mcp, command: [python, {RAW}, --modern]}}
  financial: {{kind: mcp, command: [python, -m, services.financial]}}
  von-neumann: {{kind: agent, command: [python, -m, services.von_neumann]}}
"""
CASH = {"rate": 0.1, "cash_flows": [-1000, 400, 400, 400]}
NPV = -5.259203606311132
ERAS = pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
BOTH = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.fixture(scope="module")
def mesh(start_mesh, tmp_path_factory):
    file = tmp_path_factory.mktemp("mcp") / "mesh.yaml"
    file.write_text(MESH)
    with start_mesh(file) as mesh:
        yield mesh


@asynccontextmanager
async def host(mesh, path, era, **more):
    async with asyncio.timeout(30), Client(f"http://{mesh.gateway}{path}", mode=era, **more) as client:
        yield client


def said(result):
    return json.loads(result.content[0].text)


async def post(mesh, path, message, **headers):
    async with aiohttp.ClientSession(f"http://{mesh.gateway}", timeout=aiohttp.ClientTimeout(total=15)) as session:
        data = message if isinstance(message, bytes) else json.dumps(message)
        async with session.post(path, data=data, headers={**BOTH, **headers}) as response:
            return response.status, response.headers, await response.text()


def initialize(version="2025-11-25"):
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}


@ERAS
async def test_one_server_keeps_its_names(mesh, era):
    async with host(mesh, "/servers/financial/mcp", era) as client:
        assert "npv" in {tool.name for tool in (await client.list_tools()).tools}
        assert (await client.call_tool("npv", CASH)).structured_content == {"npv": NPV}
        assert (await client.list_prompts()).prompts
        assert (await client.read_resource("prices://index")).contents[0].uri == "prices://index"


@ERAS
async def test_all_servers_and_agents_are_behind_one_door(mesh, era):
    async with host(mesh, "/mcp", era) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names >= {"financial__npv", "old__ok", "new__ok", "von-neumann__symbolic-math"}
        assert (await client.call_tool("financial__npv", CASH)).structured_content == {"npv": NPV}
        found = (await client.read_resource("financial+prices://index")).contents[0]
        assert found.uri == "financial+prices://index"
        steps = []

        async def on_progress(progress, total, message):
            steps.append(progress)

        task = {"operation": "simplify", "expression": "sin(x)**2+cos(x)**2"}
        done = await client.call_tool("von-neumann__symbolic-math", task, progress_callback=on_progress)
        assert done.structured_content["result"] == "1"
        assert steps


@ERAS
async def test_what_is_unknown_is_told_with_its_name(mesh, era):
    async with host(mesh, "/mcp", era) as client:
        for name in ("nobody__x", "plain", "financial__nothing"):
            try:
                result = await client.call_tool(name, {})
            except MCPError as err:
                assert name.rpartition("__")[2] in err.message
            else:
                assert result.is_error


@ERAS
@pytest.mark.parametrize("path", ["/servers/old/mcp", "/mcp"])
async def test_a_server_of_the_handshake_era_asks_hosts_of_both(mesh, era, path):
    async def answer(context, params):
        return ElicitResult(action="accept", content={"name": "ada"})

    async with host(mesh, path, era, elicitation_callback=answer) as client:
        name = "elicit" if path != "/mcp" else "old__elicit"
        answered = said(await client.call_tool(name, {}))
    assert answered["result"]["content"] == {"name": "ada"}


@ERAS
@pytest.mark.parametrize("server", ["old", "new"])
async def test_progress_and_logs_come_with_the_call_they_belong_to(mesh, era, server):
    steps = []

    async def on_progress(progress, total, message):
        steps.append(progress)

    async with host(mesh, f"/servers/{server}/mcp", era) as client:
        await client.call_tool("progress", {}, progress_callback=on_progress)
    assert steps == [0, 1, 2]


@ERAS
@pytest.mark.parametrize("server", ["old", "new"])
async def test_errors_of_servers_come_as_they_are(mesh, era, server):
    async with host(mesh, f"/servers/{server}/mcp", era) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("refuse", {})
    assert (caught.value.code, caught.value.message, caught.value.data) == (-32099, "no", {"why": [1.0]})


async def test_a_server_that_dies_fails_its_own_calls_and_is_back_at_once(mesh):
    async with host(mesh, "/mcp", "2026-07-28") as client:
        with pytest.raises(MCPError, match="old"):
            await client.call_tool("old__crash", {})
        assert (await client.call_tool("financial__npv", CASH)).structured_content == {"npv": NPV}
        assert said(await client.call_tool("old__ok", {"a": 1})) == {"a": 1}


async def test_three_tools_find_all_others(mesh):
    async with host(mesh, "/mcp?tools=search", "2026-07-28") as client:
        listed = await client.list_tools()
        assert {tool.name for tool in listed.tools} == {"search_tools", "describe_tool", "call_tool"}
        assert listed.meta["agentmesh/tokens"]["saved"] > 1000
        found = (await client.call_tool("search_tools", {"query": "net present value"})).structured_content
        assert found["tools"][0]["name"] == "financial__npv"
        described = await client.call_tool("describe_tool", {"name": "financial__npv"})
        assert "cash_flows" in described.structured_content["inputSchema"]["properties"]
        called = await client.call_tool("call_tool", {"name": "financial__npv", "arguments": CASH})
        assert called.structured_content == {"npv": NPV}


async def test_a_session_counts_at_its_own_door_only(mesh):
    status, headers, _ = await post(mesh, "/servers/financial/mcp", initialize())
    session = {"mcp-session-id": headers["mcp-session-id"]}
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    assert (status, (await post(mesh, "/servers/financial/mcp", listing, **session))[0]) == (200, 200)
    for path in ("/servers/old/mcp", "/mcp"):
        assert (await post(mesh, path, listing, **session))[0] == 404


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "1999-01-01"])
async def test_each_revision_of_the_handshake_era_is_spoken(mesh, version):
    status, _, body = await post(mesh, "/mcp", initialize(version))
    agreed = json.loads(body)["result"]["protocolVersion"]
    assert (status, agreed) == (200, version if version != "1999-01-01" else "2025-11-25")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', 400),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}', 400),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}', 400),
        (b'{"jsonrpc": "2.0", "id": 1, "result": {}}', 400),
        (b"[" * 100_000, 400),
    ],
)
async def test_what_is_no_message_is_refused(mesh, message, status):
    assert (await post(mesh, "/mcp", message))[0] == status


async def test_pages_of_other_sites_are_refused(mesh):
    for headers in ({"origin": "https://evil.example"}, {"origin": "http://evil.example", "host": "evil.example"}):
        assert (await post(mesh, "/mcp", initialize(), **headers))[0] == 403
