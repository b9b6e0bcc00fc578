"""The server as a real process, with the official client over its pipes."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import mcp
from mcp import StdioServerParameters
from mcp_types import TextContent

ROOT = Path(__file__).parents[4]
TIMEOUT = 30.0
GOAL_KIB = 70 * 1024


@asynccontextmanager
async def open_client() -> AsyncIterator[mcp.Client]:
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "services.utilities"], cwd=ROOT)
    async with asyncio.timeout(TIMEOUT), mcp.Client(parameters) as client:
        yield client


async def test_tools_answer_with_structured_content_and_errors_as_results() -> None:
    async with open_client() as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"current_time", "convert_units", "hash_text", "query_json", "diff_texts", "calendar_info"} <= names
        found = await client.call_tool("convert_units", {"value": 3, "from_unit": "mile", "to_unit": "km"})
        assert found.structured_content is not None
        assert found.structured_content["value"] == 4.828032
        refused = await client.call_tool("convert_units", {"value": 3, "from_unit": "mile", "to_unit": "nothing"})
        assert refused.is_error
        assert isinstance(refused.content[0], TextContent)
        assert "there is no unit 'nothing'" in refused.content[0].text


async def test_a_query_that_never_ends_is_ended_and_holds_nobody_up() -> None:
    async with open_client() as client:
        endless = asyncio.create_task(client.call_tool("query_json", {"document": "1", "query": "last(repeat(.))"}))
        quick = await client.call_tool("query_json", {"document": "[1,2]", "query": "add"})
        assert quick.structured_content == {"results": [3], "is_cut": False}
        assert not endless.done()
        ended = await endless
        assert ended.is_error
        assert isinstance(ended.content[0], TextContent)
        assert "more than 5 seconds" in ended.content[0].text
    assert not any("jq_worker" in command for command in _commands())


async def test_the_server_ends_when_its_host_closes_stdin_and_is_small() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.utilities", cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        process.stdin.write(
            b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
            b'"capabilities":{},"clientInfo":{"name":"t","version":"1"}}}\n'
        )
        assert b'"serverInfo"' in await process.stdout.readline()
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(status.partition("VmRSS:")[2].split()[0]) <= GOAL_KIB
        process.stdin.close()
        assert await process.wait() == 0


def _commands() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_text())
        except OSError:
            continue
    return found
