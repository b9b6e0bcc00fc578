"""`python -m benchmarks.consul_noise ADDRESS SERVICES RATE`: services in Consul whose health changes all the time.

Registers so many services as members of the mesh are registered, and makes RATE changes a second: one instance after
the other fails and passes again. Prints {"services": N} once it begins, and at the end of standard input how many
changes it has made in how many seconds.
"""

import asyncio
import json
import sys
import time

import aiohttp

from benchmarks.ads_server import open_stdin

_BATCH = 32


async def _register(consul: aiohttp.ClientSession, name: str, port: int) -> None:
    check = {
        "CheckID": f"service:{name}-1",
        "Name": "noise",
        "Status": "passing",
        "TTL": "600s",
        "Notes": "agentmesh 0",
    }
    service = {"ID": f"{name}-1", "Name": name, "Tags": ["agentmesh", "service"], "Address": "127.0.0.1", "Port": port}
    async with consul.put("/v1/agent/service/register", json=service | {"Check": check}) as response:
        response.raise_for_status()


async def main(address: str, count: int, rate: float) -> None:
    """Make changes until standard input ends."""
    names = [f"noise-{number}" for number in range(count)]
    lines = await open_stdin()
    ended = asyncio.ensure_future(lines.read())
    async with aiohttp.ClientSession(f"http://{address}") as consul:
        for start in range(0, count, _BATCH):
            batch = enumerate(names[start : start + _BATCH], start=20_000 + start)
            await asyncio.gather(*(_register(consul, name, port) for port, name in batch))
        print(json.dumps({"services": count}), flush=True)
        started, changes = time.monotonic(), 0
        while not ended.done():
            turn, place = divmod(changes, count)
            verb = "pass" if turn % 2 else "fail"
            async with consul.put(f"/v1/agent/check/{verb}/service:{names[place]}-1") as response:
                response.raise_for_status()
            changes += 1
            await asyncio.sleep(max(0.0, started + changes / rate - time.monotonic()))
        print(json.dumps({"changes": changes, "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
