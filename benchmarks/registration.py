"""From Consul's own check to the first routed request."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import aiohttp
import grpc

from benchmarks.ads_pair import running
from benchmarks.echo_server import METHOD
from benchmarks.mesh_under_test import PAIR, Mesh, running_mesh
from benchmarks.report import Figure, at_most, quantile

REPETITIONS = 25
NOISY = 100
RATE = 100
"""Changes a second of other services."""
_TIMEOUT = 30.0
_PAUSE = 0.001


@dataclass
class Way:
    """One way in; `delays` are seconds from Consul's "passing" to the first answer."""

    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    metadata: tuple[tuple[str, str], ...] = ()
    delays: list[float] = field(default_factory=list)


async def measure() -> list[Figure]:
    """Take an instance out of Consul again and again; its launcher puts it back; watch Consul and the callers.

    The caller's sidecar knows the service already and gets a new endpoint; the edge, which may call every service,
    forgets it meanwhile and gets cluster, endpoint and routes anew. First in a quiet mesh, then while the health of
    other services changes all the time.
    """
    with running_mesh(PAIR) as mesh:
        sidecar, outside = await _repeat(mesh)
        async with running("benchmarks.consul_noise", mesh.consul, str(NOISY), str(RATE)) as noise:
            await noise.answer()
            noisy_sidecar, noisy_outside = await _repeat(mesh)
            made = await noise.end()
    rate = f"{made['changes'] / made['seconds']:.0f} changes/s of {NOISY} other services"
    return [
        _figure("registration to first call, p50", sidecar, 0.5, 25.0),
        _figure("registration to first call, p99", sidecar, 0.99, None),
        _figure("registration to first call at the edge, p50", outside, 0.5, 25.0),
        _figure("registration to first call at the edge, p99", outside, 0.99, None),
        *(
            Figure(
                f"registration to first call {where}, {label}, under changes",
                round(quantile(way.delays, share) * 1e3, 2),
                "ms",
                f"{rate}; quiet: {quantile(quiet.delays, share) * 1e3:.2f} ms",
            )
            for where, way, quiet in (("inside", noisy_sidecar, sidecar), ("at the edge", noisy_outside, outside))
            for label, share in (("p50", 0.5), ("p99", 0.99))
        ),
    ]


async def _repeat(mesh: Mesh) -> tuple[Way, Way]:
    """The ways by the caller's sidecar and by the edge, measured."""
    options = [("grpc.default_authority", "echo.mesh")]
    async with (
        grpc.aio.insecure_channel(f"unix:{mesh.run_dir('caller-1')}/out.sock", options) as inside,
        grpc.aio.insecure_channel(mesh.gateway) as edge,
        aiohttp.ClientSession(f"http://{mesh.consul}") as consul,
    ):
        sidecar = Way(inside.unary_unary(METHOD))
        outside = Way(edge.unary_unary(METHOD), (("x-mesh-service", "echo"),))
        for _ in range(REPETITIONS):
            async with asyncio.timeout(_TIMEOUT):
                await _once(consul, mesh, (sidecar, outside))
    return sidecar, outside


def _figure(name: str, path: Way, share: float, limit: float | None) -> Figure:
    value, baseline = quantile(path.delays, share) * 1e3, "the moment at which Consul says passing"
    if limit is None:
        return Figure(name, round(value, 2), "ms", baseline)
    return at_most(name, round(value, 2), "ms", limit, baseline=baseline)


async def _once(consul: aiohttp.ClientSession, mesh: Mesh, paths: tuple[Way, ...]) -> None:
    async with consul.put("/v1/agent/service/deregister/echo-1") as response:
        response.raise_for_status()
    await asyncio.gather(*(_until(path, is_answered=False) for path in paths))
    passing = asyncio.create_task(_wait_for_passing(consul))
    answered = await asyncio.gather(*(_until(path, is_answered=True) for path in paths))
    moment = await passing
    for path, first in zip(paths, answered, strict=True):
        path.delays.append(first - moment)


async def _until(path: Way, *, is_answered: bool) -> float:
    """Call until a call is answered, or is not; the moment."""
    while True:
        succeeded = False
        with contextlib.suppress(grpc.aio.AioRpcError):
            await path.call(b"", timeout=2, metadata=path.metadata)
            succeeded = True
        if succeeded is is_answered:
            return time.monotonic()
        await asyncio.sleep(_PAUSE)


async def _wait_for_passing(consul: aiohttp.ClientSession) -> float:
    """When Consul first gives the instance to one who asks for healthy ones, by blocking queries."""
    index = "0"
    while True:
        query = {"passing": "1", "index": index, "wait": "20s"}
        async with consul.get("/v1/health/service/echo", params=query) as response:
            index = response.headers["X-Consul-Index"]
            if await response.json():
                return time.monotonic()
