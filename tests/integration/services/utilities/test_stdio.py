"""The server as a real process, with the official client over its pipes."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp
import pytest
from mcp import StdioServerParameters
from mcp_types import TextContent

ROOT = Path(__file__).parents[4]
TIMEOUT = 30.0
GOAL_KIB = 70 * 1024
ENDLESS = {"document": "1", "query": "last(repeat(.))"}

ONE_CALL_OF_EACH: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("add_to_date", {"date": "2024-01-31", "months": 1}, {"date": "2024-02-29"}),
    ("calendar_info", {"date": "2027-01-01"}, {"iso_week": 53}),
    (
        "convert_time",
        {"time": "2026-07-01T12:00", "from_zone": "Europe/Paris", "to_zone": "UTC"},
        {"time": "2026-07-01T10:00:00+00:00"},
    ),
    ("convert_units", {"value": 3, "from_unit": "mile", "to_unit": "km"}, {"value": 4.828032, "unit": "km"}),
    ("convert_units", {"value": 0, "from_unit": "dBm", "to_unit": "mW"}, {"value": 1.0, "factor": None}),
    ("current_time", {"zone": "Asia/Tokyo"}, {"utc_offset": "+09:00"}),
    ("days_between", {"start": "2026-01-02", "end": "2026-01-05"}, {"days": 3}),
    ("decode", {"text": "Zm9vYmFy", "format": "base64"}, {"text": "foobar"}),
    ("diff_texts", {"before": "a", "after": "b"}, {"added": 1}),
    ("encode", {"text": "é☃😀", "format": "hex"}, {"text": "c3a9e29883f09f9880"}),
    ("hash_text", {"text": "abc", "algorithm": "md5"}, {"digest": "900150983cd24fb0d6963f7d28e17f72"}),
    ("list_time_zones", {"filter": "paris"}, {"zones": ["Europe/Paris"]}),
    ("query_json", {"document": "[1, 2]", "query": "add"}, {"results": [3], "is_cut": False}),
    ("text_statistics", {"text": "One two."}, {"words": 2}),
]
ONE_REFUSAL_OF_EACH: list[tuple[str, dict[str, Any], str]] = [
    ("add_to_date", {"date": "soon"}, "date: 'soon' is no date. Write YYYY-MM-DD."),
    ("calendar_info", {}, "date: it is missing. Give: YYYY-MM-DD."),
    ("convert_time", {"time": "noon", "to_zone": "UTC"}, "time: 'noon' is no ISO 8601 time"),
    ("convert_units", {"value": 3, "from_unit": "mile", "to_unit": "nothing"}, "to_unit: there is no unit 'nothing'"),
    ("convert_units", {"value": -1, "from_unit": "mW", "to_unit": "dBm"}, "value: it cannot be converted"),
    ("convert_units", {"value": 1e300, "from_unit": "dBm", "to_unit": "mW"}, "value: it cannot be converted"),
    ("current_time", {"zone": "Europe/Pari"}, "Did you mean Europe/Paris"),
    ("days_between", {"start": "2026-01-02", "end": "2026-13-01"}, "end: '2026-13-01' is no date"),
    ("decode", {"text": "Zm9v!", "format": "base64"}, "text: character 5, '!', is not base64"),
    ("diff_texts", {"before": "a", "after": "b\n" * 5_001}, "after: it has 5001 lines; at most 5000"),
    ("encode", {"text": "a", "format": "rot13"}, "format: input should be 'base64'"),
    ("hash_text", {"text": "a" * 1_000_001}, "text: 1000001 characters; at most 1000000"),
    ("list_time_zones", {"filters": "x"}, "'filters': there is no such argument. Use filter."),
    ("query_json", {"document": '{"a": }', "query": "."}, "document: it is not JSON: Expecting value: line 1 column 7"),
    ("text_statistics", {"text": None}, "text: input should be a valid string"),
]


@asynccontextmanager
async def open_client(**options: Any) -> AsyncIterator[mcp.Client]:
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "services.utilities"], cwd=ROOT)
    async with asyncio.timeout(TIMEOUT), mcp.Client(parameters, **options) as client:
        yield client


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_every_tool_answers_with_structured_content_and_refuses_with_an_error_result(mode: str) -> None:
    async with open_client(mode=mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {name for name, _, _ in ONE_CALL_OF_EACH} == {name for name, _, _ in ONE_REFUSAL_OF_EACH}
        for name, arguments, expected in ONE_CALL_OF_EACH:
            found = await client.call_tool(name, arguments)
            assert not found.is_error, found.content
            assert found.structured_content is not None
            assert expected.items() <= found.structured_content.items()
            assert isinstance(found.content[0], TextContent)
            assert json.loads(found.content[0].text) == found.structured_content
        for name, arguments, words in ONE_REFUSAL_OF_EACH:
            refused = await client.call_tool(name, arguments)
            assert refused.is_error
            assert isinstance(refused.content[0], TextContent)
            assert words in refused.content[0].text


async def test_long_work_holds_nobody_up_and_a_query_that_never_ends_is_ended() -> None:
    before = "\n".join(str(number % 120) for number in range(5_000))
    after = "\n".join(str(number * 7 % 121) for number in range(5_000))
    async with open_client() as client:
        endless = asyncio.create_task(client.call_tool("query_json", ENDLESS))
        comparison = asyncio.create_task(client.call_tool("diff_texts", {"before": before, "after": after}))
        quick = await client.call_tool("query_json", {"document": "[1,2]", "query": "add"})
        assert quick.structured_content == {"results": [3], "is_cut": False}
        assert not comparison.done()
        assert not (await comparison).is_error
        assert not endless.done()
        ended = await endless
        assert ended.is_error
        assert isinstance(ended.content[0], TextContent)
        assert "query: it needs more than 5 seconds" in ended.content[0].text
        assert workers_below("self") == []
        later = await client.call_tool("query_json", {"document": "[1,2]", "query": "add"})
        assert later.structured_content == {"results": [3], "is_cut": False}


async def test_the_server_ends_when_its_host_closes_stdin_and_is_small() -> None:
    async with open_raw() as (process, ask):
        assert b'"serverInfo"' in await ask(
            "initialize",
            {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
        )
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(status.partition("VmRSS:")[2].split()[0]) <= GOAL_KIB
        process.stdin.close()
        assert await process.wait() == 0
        assert await process.stderr.read() == b""


async def test_a_server_that_ends_during_a_query_leaves_no_process_behind() -> None:
    async with open_raw() as (process, ask):
        await ask(
            "initialize",
            {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
        )
        query = asyncio.create_task(ask("tools/call", {"name": "query_json", "arguments": ENDLESS}))
        while not (running := workers_below(str(process.pid))):
            await asyncio.sleep(0.01)
        process.stdin.close()
        assert await process.wait() == 0
        await query
        assert not any(Path(f"/proc/{pid}").exists() for pid in running)


@asynccontextmanager
async def open_raw() -> AsyncIterator[tuple[Any, Any]]:
    """The process, and a function that sends a request and gives back the next line of the answer."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.utilities", cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None

    async def ask(method: str, params: dict[str, Any]) -> bytes:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        process.stdin.write(json.dumps(message).encode() + b"\n")
        return await process.stdout.readline()

    try:
        async with asyncio.timeout(TIMEOUT):
            yield process, ask
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def workers_below(pid: str) -> list[str]:
    """The ids of the query processes below a process, zombies included."""
    found = []
    for child in children_of(pid):
        try:
            name = Path(f"/proc/{child}/stat").read_text() + Path(f"/proc/{child}/cmdline").read_text()
        except OSError:
            continue
        if "jq_worker" in name:
            found.append(child)
        found += workers_below(child)
    return found


def children_of(pid: str) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += path.read_text().split()
        except OSError:
            continue
    return found
