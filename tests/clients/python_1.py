"""The Python SDK 1.x, of the handshake era. `python python_1.py URL ARGUMENTS` prints what it has got as JSON."""

import asyncio
import json
import sys

from mcp import ClientSession, types
from mcp.client.streamable_http import streamablehttp_client


async def main() -> None:
    steps = []

    async def elicit(context, params):
        return types.ElicitResult(action="accept", content={"username": "ada"})

    async def on_progress(progress, total, message):
        steps.append(progress)

    async with (
        streamablehttp_client(sys.argv[1]) as (read, write, _),
        ClientSession(read, write, elicitation_callback=elicit) as session,
    ):
        await session.initialize()
        task = {"operation": "simplify", "expression": "x+x"}
        done = await session.call_tool("von-neumann__symbolic-math", task, progress_callback=on_progress)
        npv = await session.call_tool("financial__npv", json.loads(sys.argv[2]))
        found = {
            "tools": [tool.name for tool in (await session.list_tools()).tools],
            "npv": npv.structuredContent["npv"],
            "resource": str((await session.read_resource("financial+prices://index")).contents[0].uri),
            "prompts": len((await session.list_prompts()).prompts),
            "task": done.structuredContent["result"],
            "steps": len(steps),
            "asked": (await session.call_tool("old__elicit", {})).content[0].text,
        }
    print(json.dumps(found))


asyncio.run(main())
