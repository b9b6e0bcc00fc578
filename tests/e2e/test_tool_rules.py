"""Rules, guardrails and pins of tools at the doors of MCP, through real Envoys."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml
from mcp import Client
from mcp.shared.exceptions import MCPError

SERVERS = Path(__file__).parent / "servers"
DOCUMENT = {
    "tools": {
        "guardrails": {"polite": {"service": "guardrail"}},
        "rules": {
            "say": {
                "servers": ["sayer"],
                "tools": ["say"],
                "arguments": {"text": {"required": True, "max_length": 40}},
                "redact": {"cards": {"pattern": r"\b\d{4} \d{4}\b", "replacement": "****"}},
                "guardrails": ["polite"],
            },
            "soon": {"servers": ["sayer"], "tools": ["wait"], "timeout": "300ms"},
            "agents": {"servers": ["von-neumann"], "arguments": {"expression": {"max_length": 20}}},
        },
    }
}
BOTH = pytest.mark.parametrize("door", ["/servers/sayer/mcp", "/mcp"])


@pytest.fixture(scope="module")
def mesh(start_mesh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    description = folder / "description"
    description.write_text("Does something good.")
    services = {
        "sayer": {
            "kind": "mcp",
            "command": [sys.executable, str(SERVERS / "sayer.py")],
            "env": {"SAYER_DESCRIPTION": str(description)},
        },
        "guardrail": {"kind": "service", "command": [sys.executable, str(SERVERS / "guardrail.py")]},
        "von-neumann": {"kind": "agent", "command": ["python", "-m", "services.von_neumann"]},
    }
    (folder / "mesh.yaml").write_text(yaml.safe_dump({"services": services}))
    with start_mesh(folder / "mesh.yaml") as mesh:
        apply(mesh, folder, DOCUMENT)
        yield mesh


def apply(mesh, folder, document):
    file = folder / "document.yaml"
    file.write_text(json.dumps(document))
    applied = mesh.meshctl("apply", "--yes", str(file))
    assert applied.returncode == 0, applied.stderr


@asynccontextmanager
async def host(mesh, door):
    async with asyncio.timeout(30), Client(f"http://{mesh.gateway}{door}", mode="2026-07-28") as client:
        yield client


def named(door, tool):
    return tool if door != "/mcp" else f"sayer__{tool}"


async def refusal(client, tool, arguments):
    with pytest.raises(MCPError) as found:
        await client.call_tool(tool, arguments)
    return found.value.error


@BOTH
async def test_arguments_guardrails_and_redaction_hold_for_a_call(mesh, door):
    async with host(mesh, door) as client:
        said = [part.text for part in (await client.call_tool(named(door, "say"), {"text": "please hello"})).content]
        assert said == ["said hello, card ****", "checked for say"]
        long = await refusal(client, named(door, "say"), {"text": "x" * 41})
        assert (long.data["reason"], long.data["field"]) == ("ARGUMENT_REFUSED", "params.arguments.text")
        evil = await refusal(client, named(door, "say"), {"text": "evil"})
        assert evil.data["reason"] == "EVIL"
        assert "must not say that" in evil.message
        # It is closed when it does not answer.
        away = await refusal(client, named(door, "say"), {"text": "away"})
        assert away.data["reason"] == "GUARDRAIL_AWAY"


@BOTH
async def test_a_slow_tool_is_ended_in_the_time_of_its_rule(mesh, door):
    async with host(mesh, door) as client:
        assert (await client.call_tool(named(door, "wait"), {"seconds": 0.01})).content[0].text == "done"
        late = await refusal(client, named(door, "wait"), {"seconds": 20})
        assert late.data["reason"] == "TOOL_TIMEOUT"


async def test_skills_of_agents_are_tools_with_rules_too(mesh):
    async with host(mesh, "/mcp") as client:
        tool = "von-neumann__symbolic-math"
        done = await client.call_tool(tool, {"operation": "simplify", "expression": "x + x"})
        assert done.structured_content["result"] == "2*x"
        long = await refusal(client, tool, {"operation": "simplify", "expression": "x" * 21})
        assert long.data["reason"] == "ARGUMENT_REFUSED"


async def test_what_only_these_doors_keep_cannot_be_gone_around(mesh):
    async with aiohttp.ClientSession(f"http://{mesh.gateway}", timeout=aiohttp.ClientTimeout(total=15)) as session:
        async with session.post("/v1/servers/sayer/tools/say:invoke", json={"text": "evil"}) as response:
            assert (response.status, response.headers["x-mesh-reason"]) == (403, "ONLY_OVER_MCP")
        async with session.post("/v1/servers/sayer/tools/wait:invoke", json={"seconds": 0}) as response:
            assert response.status == 200
    card = await asyncio.to_thread(mesh.meshctl, "call", "von-neumann", "symbolic-math", "{}")
    assert card.returncode != 0
    assert "kept over MCP" in card.stderr


@BOTH
async def test_a_tool_that_is_another_one_than_was_approved_is_neither_listed_nor_called(mesh, door, tmp_path):
    pins = yaml.safe_load((await asyncio.to_thread(mesh.meshctl, "tools", "sayer", "--pin")).stdout)
    digests = pins["tools"]["pins"]["sayer"]["tools"]
    assert set(digests) == {"say", "wait", "changing"}
    pinned = {"tools": {**DOCUMENT["tools"], **pins["tools"]}}
    await asyncio.to_thread(apply, mesh, tmp_path, pinned)
    assert (await asyncio.to_thread(mesh.meshctl, "tools", "sayer", "--changed")).returncode == 0

    async with host(mesh, door) as client:
        mine = {named(door, tool) for tool in digests}

        async def listed():
            return {tool.name for tool in (await client.list_tools()).tools} & mine

        assert await listed() == mine
        digests["changing"] = "0" * 32
        del digests["wait"]
        await asyncio.to_thread(apply, mesh, tmp_path, pinned)
        async with asyncio.timeout(10):
            while await listed() != {named(door, "say")}:
                await asyncio.sleep(0.05)
        for tool in ("changing", "wait"):
            found = await refusal(client, named(door, tool), {"seconds": 0})
            assert found.data["reason"] == "TOOL_NOT_APPROVED"
    changed = await asyncio.to_thread(mesh.meshctl, "tools", "sayer", "--changed", "--output", "json")
    assert changed.returncode == 1
    assert {(row["tool"], row["change"]) for row in json.loads(changed.stdout)} == {
        ("changing", "changed"),
        ("wait", "new"),
    }
    await asyncio.to_thread(apply, mesh, tmp_path, DOCUMENT)


def test_rules_that_lead_nowhere_are_refused(mesh, tmp_path):
    file = tmp_path / "document.yaml"
    rule = {"servers": ["nobody"], "roles": ["nothing"], "guardrails": ["missing"]}
    file.write_text(json.dumps({"tools": {"rules": {"one": rule}}}))
    applied = mesh.meshctl("apply", "--yes", str(file))
    assert applied.returncode != 0
    for word in ("'nobody'", "'nothing'", "'missing'"):
        assert word in applied.stderr
