"""The server as a real process, with the official client over its pipes and by hand."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp
import pytest
from mcp import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference, TextContent, TextResourceContents

ROOT = Path(__file__).parents[4]
COMMAND = (sys.executable, "-m", "services.financial")
TIMEOUT = 20.0
GOAL_KIB = 70 * 1024

CALLS: dict[str, dict[str, Any]] = {
    "npv": {"rate": 0.1, "cash_flows": [-1000.0, 400.0, 400.0, 400.0]},
    "irr": {"cash_flows": [-100, 110]},
    "mirr": {"cash_flows": [-100, 110], "finance_rate": 0.1, "reinvest_rate": 0.1},
    "amortization_schedule": {"principal": 1000, "annual_rate": 0.05, "months": 12},
    "bond_price": {"coupon_rate": 0.05, "years": 10, "yield_rate": 0.05},
    "bond_yield": {"price": 100, "coupon_rate": 0.05, "years": 10},
    "bond_duration": {"coupon_rate": 0.05, "years": 10, "yield_rate": 0.05},
    "option_price": {"kind": "put", "spot": 42, "strike": 40, "years": 0.5, "volatility": 0.2, "rate": 0.1},
    "implied_volatility": {"kind": "call", "price": 1.875, "spot": 21, "strike": 20, "years": 0.25, "rate": 0.1},
    "portfolio_statistics": {"symbols": ["SAMPLE-SWING", "SAMPLE-MARKET"], "benchmark": "SAMPLE-MARKET"},
}


@asynccontextmanager
async def open_client(*arguments: str, mode: str = "auto") -> AsyncIterator[mcp.Client]:
    """A client of a new server process."""
    parameters = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], *arguments], cwd=ROOT)
    async with asyncio.timeout(TIMEOUT), mcp.Client(parameters, mode=mode) as client:  # type: ignore[arg-type]
        yield client


@asynccontextmanager
async def open_process(
    *arguments: str, stdout: Any = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A new server process, without a client."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, cwd=ROOT, stdin=pipe, stdout=stdout, stderr=pipe
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def build_initialize() -> bytes:
    """The line that begins the handshake."""
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).encode() + b"\n"


async def initialize(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Do the handshake by hand; give the answer."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(build_initialize())
    answer: dict[str, Any] = json.loads(await process.stdout.readline())
    return answer


async def test_every_tool_answers_the_official_client_with_structured_content() -> None:
    async with open_client() as client:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == set(CALLS)
        for name, arguments in CALLS.items():
            result = await client.call_tool(name, arguments)  # the client checks it against the output schema
            assert not result.is_error, result.content
            assert result.structured_content
            assert isinstance(result.content[0], TextContent)
            assert json.loads(result.content[0].text) == result.structured_content
            if name == "npv":
                assert result.structured_content["npv"] == pytest.approx(-5.2592036)


async def test_resources_prompts_and_completion_are_served(tmp_path: Path) -> None:
    (tmp_path / "MINE.csv").write_text("date,close\n2024-01-01,1\n2024-01-02,2\n")
    async with open_client("--data-dir", str(tmp_path)) as client:
        assert [resource.uri for resource in (await client.list_resources()).resources] == [
            "prices://index",
            "prices://MINE",
        ]
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "prices://{symbol}"
        (content,) = (await client.read_resource("prices://MINE")).contents
        assert isinstance(content, TextResourceContents)
        assert content.text.startswith("date,close")
        for uri in ("prices://SAMPLE-SWING", "prices://..%2f..%2fetc%2fpasswd"):
            with pytest.raises(MCPError):
                await client.read_resource(uri)
        assert {prompt.name for prompt in (await client.list_prompts()).prompts} == {
            "value_project",
            "review_portfolio",
        }
        assert (await client.get_prompt("value_project", {"description": "a mill"})).messages
        symbols = ResourceTemplateReference(type="ref/resource", uri="prices://{symbol}")
        assert (await client.complete(symbols, {"name": "symbol", "value": "mi"})).completion.values == ["MINE"]
        prompt = PromptReference(type="ref/prompt", name="value_project")
        assert (await client.complete(prompt, {"name": "description", "value": ""})).completion.values == []


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_bad_input_is_an_error_result_and_the_next_call_works_in_both_eras(mode: str) -> None:
    async with open_client(mode=mode) as client:
        for arguments, says in (
            ({"rate": -2, "cash_flows": [1]}, "rate: input should be greater than -1"),
            ({"rate": 0.1, "cash_flows": [1.0] * 1_000_000}, "cash_flows: 1000000 items; at most 10000 are accepted"),
            ({"rate": 0.1, "cash_flows": [1], "extra": 1}, "'extra': there is no such argument"),
        ):
            refused = await client.call_tool("npv", arguments)
            assert refused.is_error
            assert isinstance(refused.content[0], TextContent)
            assert says in refused.content[0].text
        assert (await client.call_tool("npv", {"rate": 0, "cash_flows": [1, 2]})).structured_content == {"npv": 3.0}


async def test_many_calls_at_a_time_are_all_answered() -> None:
    async with open_client() as client, asyncio.TaskGroup() as group:
        calls = [group.create_task(client.call_tool("irr", {"cash_flows": [-100, 100 + n]})) for n in range(1, 31)]
    rates = [(call.result().structured_content or {})["irr"] for call in calls]
    assert rates == pytest.approx([n / 100 for n in range(1, 31)])


async def test_the_server_ends_with_status_0_when_stdin_closes() -> None:
    async with open_process() as process:
        assert (await initialize(process))["result"]["serverInfo"]["name"] == "financial"
        out, err = await process.communicate(b"")  # closes stdin
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_a_host_that_no_longer_reads_ends_the_server_without_a_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        async with open_process(stdout=stdout) as process:
            _, err = await process.communicate(build_initialize())
    assert (process.returncode, err) == (0, b"financial: the host no longer reads what is answered.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_server_ends_at_once_on_a_signal_without_a_traceback(number: signal.Signals) -> None:
    async with open_process() as process:
        await initialize(process)
        process.send_signal(number)
        await process.wait()
        assert process.stderr
        assert (process.returncode, await process.stderr.read()) == (-number, b"")


async def test_garbage_on_stdin_does_not_end_the_server() -> None:
    async with open_process() as process:
        assert process.stdin
        process.stdin.write(b"not json\n\xff\xfe\n[1,2]\n{}\n")
        assert process.stdout
        answer = await initialize(process)
        while answer.get("id") != 1:  # first come the errors, if any
            answer = json.loads(await process.stdout.readline())
        assert answer["result"]["serverInfo"]["name"] == "financial"


async def test_a_data_directory_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    async with open_process("--data-dir", str(tmp_path / "missing")) as process:
        out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"missing cannot be read (No such file or directory). Give a directory" in err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_an_idle_server_stays_within_its_memory_goal_and_loads_no_numeric_library() -> None:
    async with open_process() as process:
        await initialize(process)
        status = Path(f"/proc/{process.pid}/status").read_text()
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident < GOAL_KIB
    assert "numpy" not in maps
    assert "scipy" not in maps
