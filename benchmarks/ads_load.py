"""`python -m benchmarks.ads_load DIRECTORY PORT PROXIES [bare] [shared]`: proxies that speak delta ADS as Envoy does.

PROXIES is a JSON object {"caller-0": 50}: how many of each service. Each has a connection of its own, by mutual TLS, as
each Envoy has; with "shared" those of one service have one. It looks at nothing but the names of clusters, so that most
of the machine is left to the server. Once all have acknowledged everything it prints {"seconds": ...}; after that each
line on standard input asks:

    {"mark": true}     forget the counts
    {"wait": 50}       wait until so many messages have come, and been acknowledged, since the mark
    {"counts": true}   proxies that got something since the mark, their messages and bytes
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.ads_server import open_stdin
from mesh.runtime import keep_heap
from mesh.xds import names
from mesh.xds.descriptors import envoy_message

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_TIMEOUT = 300.0
_PAUSE = 0.002
_REPLY = bytes(80)
"""About as long as an acknowledgement."""
_AT_ONCE = 64
"""Proxies that begin to connect at the same time: handshakes of this one process must not time out."""


@dataclass
class Proxy:
    """One proxy: what it got, and whether it has all that it wants."""

    service: str
    number: int
    channel: grpc.aio.Channel
    messages: int = 0
    bytes: int = 0

    async def run_bare(self, settled: asyncio.Event) -> None:
        """Answer whatever comes, for ever: what gRPC itself costs."""
        call: Any = self.channel.stream_stream(METHOD)()
        await call.write(b"\0")
        await call.read()
        settled.set()
        while (body := await call.read()) is not grpc.aio.EOF:
            await call.write(_REPLY)
            self.messages += 1
            self.bytes += len(body)

    async def run(self, settled: asyncio.Event) -> None:
        """Ask for everything, acknowledge everything, for ever."""
        request = envoy_message("envoy.service.discovery.v3.DeltaDiscoveryRequest")
        parse = envoy_message("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString
        call: Any = self.channel.stream_stream(METHOD)()
        first = request(type_url=names.CLUSTER)
        first.node.id = f"{self.service}/{self.service}-{self.number}"
        run = f"/srv/mesh/run/{self.service}-{self.number}"
        first.node.metadata.update(
            {
                "outbound_socket": f"{run}/out.sock",
                "app_socket": f"{run}/app.sock",
                "secrets_dir": "secrets",
                "inbound": f"127.0.0.1:{10_000 + self.number}",
            }
        )
        await call.write(first.SerializeToString())
        left = {names.CLUSTER, names.ENDPOINT, names.LISTENER, names.ROUTE}
        clusters: set[str] = set()
        while (body := await call.read()) is not grpc.aio.EOF:
            response = parse(body)
            url = response.type_url
            await call.write(request(type_url=url, response_nonce=response.nonce).SerializeToString())
            self.messages += 1
            self.bytes += len(body)
            if url == names.CLUSTER:
                new = {resource.name for resource in response.resources} - clusters - {names.APP_CLUSTER}
                clusters |= new
                wanted = request(type_url=names.ENDPOINT, resource_names_subscribe=sorted(new))
                await call.write(wanted.SerializeToString())
                if names.LISTENER in left:
                    await call.write(request(type_url=names.LISTENER).SerializeToString())
            elif url == names.LISTENER and names.ROUTE in left:
                wanted = request(type_url=names.ROUTE, resource_names_subscribe=["outbound"])
                await call.write(wanted.SerializeToString())
            left.discard(url)
            if not left:
                settled.set()
        raise RuntimeError(f"the stream of {self.service}-{self.number} has ended: {await call.code()}")


def _open_channel(directory: Path, port: int, service: str) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        (directory / "bundle.pem").read_bytes(),
        (directory / f"{service}.key").read_bytes(),
        (directory / f"{service}.pem").read_bytes(),
    )
    options = [
        ("grpc.default_authority", "control-plane.mesh"),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", 64 << 20),
    ]
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)


async def main(directory: Path, port: int, services: dict[str, int], modes: list[str]) -> None:
    """Run the proxies until standard input ends."""
    proxies: list[Proxy] = []
    for service, count in services.items():
        shared = [_open_channel(directory, port, service)] * count if "shared" in modes else None
        channels = shared or [_open_channel(directory, port, service) for _ in range(count)]
        proxies += [Proxy(service, number, channel) for number, channel in enumerate(channels)]
    places = asyncio.Semaphore(_AT_ONCE)
    lines = await open_stdin()
    keep_heap()
    async with asyncio.TaskGroup() as group:
        streams: list[asyncio.Task[None]] = []

        async def begin(proxy: Proxy) -> None:
            settled = asyncio.Event()
            async with places:
                streams.append(group.create_task(proxy.run_bare(settled) if "bare" in modes else proxy.run(settled)))
                await settled.wait()

        started = time.monotonic()
        async with asyncio.timeout(_TIMEOUT):
            await asyncio.gather(*map(begin, proxies))
        print(json.dumps({"seconds": time.monotonic() - started}), flush=True)
        while line := await lines.readline():
            print(json.dumps(await _obey(proxies, json.loads(line))), flush=True)
        for stream in streams:
            stream.cancel()


async def _obey(proxies: list[Proxy], command: dict[str, Any]) -> dict[str, Any]:
    if "mark" in command:
        for proxy in proxies:
            proxy.messages = proxy.bytes = 0
    while sum(proxy.messages for proxy in proxies) < command.get("wait", 0):  # noqa: ASYNC110 - many write it
        await asyncio.sleep(_PAUSE)
    got = [proxy for proxy in proxies if proxy.messages]
    return {
        "proxies": len(got),
        "messages": sum(proxy.messages for proxy in got),
        "bytes": sum(proxy.bytes for proxy in got),
    }


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4:]))
