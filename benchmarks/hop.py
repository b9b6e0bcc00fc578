"""What two sidecars cost: direct, through the mesh, and through the same two Envoys configured by hand."""

import asyncio
import contextlib
import json
import string
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import yaml

from benchmarks.echo_server import METHOD
from benchmarks.mesh_under_test import PAIR, Mesh, running_mesh
from benchmarks.report import Figure, at_least, at_most, median_ratio, quantile
from mesh.model import Address
from mesh.runtime import ChildSpec, open_child
from mesh.sidecar import find_envoy
from mesh.sidecar.tcp import reserve

SIZES = {"100 B": 100, "10 kB": 10_000}
ROUNDS = 40
CALLS_IN_A_ROW = 100
ROUNDS_AT_ONCE = 21
CALLS_AT_ONCE = 600
IN_FLIGHT = 32

_TEMPLATE = Path(__file__).with_name("static_pair.yaml")


@dataclass
class Way:
    """One way to the echo server, and what was measured on it: a value per round."""

    call: Any
    envoys: tuple[int, ...] = ()
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


async def measure() -> list[Figure]:
    """Latency with one call at a time and throughput with 32 at once, in rounds that alternate between the ways."""
    figures: list[Figure] = []
    with running_mesh(PAIR) as mesh:
        async with _open_ways(mesh) as ways:
            for label, size in SIZES.items():
                for way in ways.values():
                    await _at_once(way, bytes(size))
                    way.p50, way.p99, way.rate, way.cpu = [], [], [], []
                for _ in range(ROUNDS):
                    for way in ways.values():
                        await _in_a_row(way, bytes(size))
                for _ in range(ROUNDS_AT_ONCE):
                    for way in ways.values():
                        await _at_once(way, bytes(size))
                figures += _compare(label, ways["direct"], ways["mesh"], ways["static"])
    return figures


def _compare(label: str, direct: Way, mesh: Way, static: Way) -> list[Figure]:
    base_p50 = f"hand-written pair: {median(static.p50) * 1e3:.3f} ms"
    base_rate = f"hand-written pair: {median(static.rate):.0f} calls/s"
    return [
        at_most(f"hop p50, {label}", median_ratio(mesh.p50, static.p50), "x", 1.05, baseline=base_p50),
        at_least(f"hop throughput, {label}", median_ratio(mesh.rate, static.rate), "x", 0.95, baseline=base_rate),
        Figure(f"hop p99, {label}", round(median_ratio(mesh.p99, static.p99), 4), "x", "hand-written pair"),
        Figure(
            f"Envoy CPU per call, {label}",
            round(median_ratio(mesh.cpu, static.cpu), 4),
            "x",
            f"hand-written pair: {median(static.cpu) * 1e6:.0f} us",
        ),
        Figure(
            f"two sidecars p50, {label}",
            round(median_ratio(mesh.p50, direct.p50), 4),
            "x",
            f"direct call: {median(direct.p50) * 1e3:.3f} ms",
        ),
        Figure(
            f"two sidecars throughput, {label}",
            round(median_ratio(mesh.rate, direct.rate), 4),
            "x",
            f"direct call: {median(direct.rate):.0f} calls/s",
        ),
    ]


async def _in_a_row(way: Way, message: bytes) -> None:
    times: list[float] = []
    for _ in range(CALLS_IN_A_ROW):
        started = time.perf_counter()
        await way.call(message)
        times.append(time.perf_counter() - started)
    way.p50.append(quantile(times, 0.5))
    way.p99.append(quantile(times, 0.99))


async def _at_once(way: Way, message: bytes) -> None:
    left = CALLS_AT_ONCE

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await way.call(message)

    cpu = _cpu_seconds(way.envoys)
    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    way.rate.append(CALLS_AT_ONCE / (time.perf_counter() - started))
    way.cpu.append(max(_cpu_seconds(way.envoys) - cpu, 1e-9) / CALLS_AT_ONCE)


def _cpu_seconds(pids: tuple[int, ...]) -> float:
    # schedstat counts nanoseconds on the CPU, thread by thread.
    return sum(
        int(stat.read_text().split()[0]) / 1e9 for pid in pids for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


@contextlib.asynccontextmanager
async def _open_ways(mesh: Mesh) -> AsyncIterator[dict[str, Way]]:
    app, outbound = mesh.run_dir("echo-1") / "app.sock", mesh.run_dir("caller-1") / "out.sock"
    envoys = tuple(
        pid
        for pid, command in mesh.processes().items()
        if "envoy" in command and ("run/echo-1/" in command or "run/caller-1/" in command)
    )
    async with contextlib.AsyncExitStack() as stack:
        static_out, static_envoys = await stack.enter_async_context(_static_pair(mesh, app))
        targets = {"direct": (app, ()), "mesh": (outbound, envoys), "static": (static_out, static_envoys)}
        ways = {}
        for name, (path, pids) in targets.items():
            options = [("grpc.default_authority", "echo.mesh"), ("grpc.enable_retries", 0)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{path}", options))
            call: Any = channel.unary_unary(METHOD)
            await call(b"", timeout=20, wait_for_ready=True)
            ways[name] = Way(call, pids)
        yield ways


@contextlib.asynccontextmanager
async def _static_pair(mesh: Mesh, app: Path) -> AsyncIterator[tuple[Path, tuple[int, ...]]]:
    """Two Envoys with a config written by hand, and the certificates of the two members."""
    out = mesh.state_dir / "static.sock"
    async with contextlib.AsyncExitStack() as stack:
        address = stack.enter_context(reserve(Address("127.0.0.1", 0), field="static pair"))
        text = string.Template(_TEMPLATE.read_text()).substitute(
            out=out,
            app=app,
            port=address.port,
            client=mesh.run_dir("caller-1") / "secrets",
            server=mesh.run_dir("echo-1") / "secrets",
        )
        pids = []
        for half, config in yaml.safe_load(text).items():
            path = mesh.state_dir / f"static-{half}.json"
            path.write_text(json.dumps(config))
            command = (str(find_envoy()), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error")
            child = await stack.enter_async_context(open_child(ChildSpec(name=f"static {half}", command=command)))
            pids.append(child.pid)
        async with asyncio.timeout(20):
            while not out.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.02)
        yield out, tuple(pids)
