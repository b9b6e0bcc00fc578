"""What callers notice of changes: steady calls through two sidecars while everything changes that may change."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import yaml
from google.protobuf.duration_pb2 import Duration

from agentmesh.config.v1 import config_service_pb2 as config
from agentmesh.config.v1 import config_service_pb2_grpc
from agentmesh.control.v1 import (
    authority_service_pb2 as authority,
)
from agentmesh.control.v1 import (
    authority_service_pb2_grpc,
    control_service_pb2_grpc,
)
from agentmesh.control.v1 import (
    control_service_pb2 as control,
)
from benchmarks.echo_server import METHOD
from benchmarks.mesh_under_test import ROOT, Mesh, running_mesh
from benchmarks.report import Figure, at_most, quantile

SECONDS = 180.0
"""No round of changes begins later than this."""
ROUTES = 1000
CALLERS = 4
PAUSE = 0.01
"""Seconds between two calls of one caller."""
QUIET_SECONDS = 3.0
CERTIFICATE_SECONDS = 20
STEPS = (25, 50, 100, 50, 0)
"""Percentages of a split, there and back."""

_MESH = Path(__file__).with_name("change.yaml")
_CALL_TIMEOUT = 10.0
_WAIT = 60.0


@dataclass
class Record:
    """What was measured: calls as (start, seconds), spans of quiet and of changes, and how often what was changed."""

    calls: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    quiet: list[tuple[float, float]] = field(default_factory=list)
    busy: list[tuple[float, float]] = field(default_factory=list)
    applied: list[float] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)

    def seconds_of(self, spans: list[tuple[float, float]]) -> list[float]:
        """How long the calls took that began within spans."""
        return [seconds for start, seconds in self.calls if any(begin <= start < end for begin, end in spans)]


class Operator:
    """Who changes things in a running mesh."""

    def __init__(self, mesh: Mesh, record: Record) -> None:
        self.mesh = mesh
        self.record = record
        self._channel = grpc.aio.insecure_channel(f"unix:{mesh.state_dir}/control.sock")
        self._config = config_service_pb2_grpc.ConfigServiceStub(self._channel)
        self._control = control_service_pb2_grpc.ControlServiceStub(self._channel)
        self._authority = authority_service_pb2_grpc.AuthorityServiceStub(self._channel)
        self._numbers = itertools.count(1)

    async def apply(self, kind: str, *, share: int = 0) -> None:
        """Change the document, and wait until all proxies have it; `share` is the percentage that `spare` gets."""
        request = config.ApplyDocumentRequest(
            document=_document(f"{next(self._numbers)}s", share), source="benchmark", wait=Duration(seconds=30)
        )
        started = time.perf_counter()
        answer = await self._config.ApplyDocument(request, timeout=_WAIT)
        self.record.applied.append(time.perf_counter() - started)
        if answer.proxies_waiting:
            raise RuntimeError(f"these have not taken a change: {', '.join(answer.proxies_waiting)}")
        self.record.changes[kind] += 1

    async def come_and_go(self, service: str, kind: str) -> None:
        """One more instance of a service, from its start until it has left in order."""
        before = await self._healthy(service)
        command = ("run", "service", service, "--", sys.executable, "-m", "benchmarks.echo_server")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.meshctl.main", *command),
            cwd=ROOT,
            env=self.mesh.env,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await self._until(service, lambda healthy: healthy > before)
            process.terminate()
            async with asyncio.timeout(_WAIT):
                await process.wait()
            await self._until(service, lambda healthy: healthy == before)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self.record.changes[kind] += 1

    async def _healthy(self, service: str) -> int:
        answer = await self._control.ListServices(control.ListServicesRequest(), timeout=_WAIT)
        instances = [each for found in answer.services if found.name == service for each in found.instances]
        return sum(each.healthy for each in instances)

    async def _until(self, service: str, is_enough: Callable[[int], bool]) -> None:
        async with asyncio.timeout(_WAIT):
            while not is_enough(await self._healthy(service)):  # noqa: ASYNC110 - it is told to who asks
                await asyncio.sleep(0.1)

    async def restart_control_plane(self, number: signal.Signals) -> None:
        """End it; the mesh starts it again."""
        (pid,) = [pid for pid, command in self.mesh.processes().items() if "services.control_plane" in command]
        os.kill(pid, number)
        async with asyncio.timeout(_WAIT):
            while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110 - somebody else's child
                await asyncio.sleep(0.05)
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await self._config.GetDocument(config.GetDocumentRequest(), timeout=2)
                    break
                await asyncio.sleep(0.05)
        self.record.changes[f"control plane {number.name}"] += 1

    async def rotate_root(self) -> None:
        """From one root to the next, with all steps between; takes some lifetimes of certificates."""
        await self._authority.RotateRoot(authority.RotateRootRequest(), timeout=_WAIT)
        stage = ""
        while stage != "steady":
            await asyncio.sleep(1)
            # The control plane is away for moments.
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await self._authority.GetAuthority(authority.GetAuthorityRequest(), timeout=_WAIT)
                stage = answer.authority.stage
        self.record.changes["root"] += 1

    async def close(self) -> None:
        """Close its connection."""
        await self._channel.close()


async def measure() -> list[Figure]:
    """Rounds of changes for three minutes, and a quiet phase before each."""
    record = Record()
    with running_mesh(_MESH, variables={"MESH_CERTIFICATE_LIFETIME": str(CERTIFICATE_SECONDS)}) as mesh:
        operator = Operator(mesh, record)
        try:
            await operator.apply("routes")
            async with _steady_calls(mesh, record):
                await _change_everything(operator, record)
        finally:
            await operator.close()
    return _figures(record)


async def _change_everything(operator: Operator, record: Record) -> None:
    end = time.monotonic() + SECONDS
    rotation = asyncio.create_task(operator.rotate_root())
    try:
        for number in itertools.count():
            with _span(record.quiet):
                await asyncio.sleep(QUIET_SECONDS)
            with _span(record.busy):
                await _round(operator, signal.SIGKILL if number % 2 else signal.SIGTERM)
            left = end - time.monotonic()
            print(
                f"  {len(record.calls)} calls, {len(record.failed)} failed, {max(0, left):.0f} s left", file=sys.stderr
            )
            if left <= 0:
                break
        async with asyncio.timeout(_WAIT):
            await rotation
    finally:
        rotation.cancel()


async def _round(operator: Operator, number: signal.Signals) -> None:
    for _ in range(3):
        await operator.apply("routes")
    for share in STEPS:
        await operator.apply("split", share=share)
    await operator.come_and_go("echo", "instance")
    await operator.come_and_go("newcomer", "service")
    await operator.restart_control_plane(number)


@contextlib.contextmanager
def _span(spans: list[tuple[float, float]]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    spans.append((started, time.perf_counter()))


@contextlib.asynccontextmanager
async def _steady_calls(mesh: Mesh, record: Record) -> AsyncIterator[None]:
    options = (("grpc.default_authority", "echo.mesh"), ("grpc.enable_retries", 0))
    target = f"unix:{mesh.run_dir('caller-1')}/out.sock"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        call = channel.unary_unary(METHOD)
        callers = [asyncio.create_task(_keep_calling(call, record)) for _ in range(CALLERS)]
        try:
            yield
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)


async def _keep_calling(call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], record: Record) -> None:
    while True:
        started = time.perf_counter()
        try:
            await call(b"0123456789" * 10, timeout=_CALL_TIMEOUT)
        except grpc.aio.AioRpcError as err:
            record.failed.append(f"{err.code().name}: {err.details()}")
        record.calls.append((started, time.perf_counter() - started))
        await asyncio.sleep(PAUSE)


def _document(timeout: str, share: int) -> str:
    """Routes that nobody calls, and after them the one of the calls; all of them change with the timeout."""
    idle = [
        {"name": f"r{number}", "match": {"grpc": {"service": f"none.S{number}"}}, "timeout": f"1m{timeout}"}
        for number in range(ROUTES - 1)
    ]
    service, _, method = METHOD.lstrip("/").partition("/")
    used = {
        "name": "used",
        "match": {"grpc": {"service": service, "method": method}},
        "split": {"echo": 100 - share, "spare": share},
    }
    return str(yaml.dump({"services": {"echo": {"routes": [*idle, used]}}}, Dumper=yaml.CSafeDumper))


def _figures(record: Record) -> list[Figure]:
    quiet, busy = record.seconds_of(record.quiet), record.seconds_of(record.busy)
    made = ", ".join(f"{count} {kind}" for kind, count in sorted(record.changes.items()))
    for words, count in Counter(record.failed).most_common(5):
        print(f"  failed {count} times: {words}", file=sys.stderr)
    figures = [
        at_most("calls failed by changes", len(record.failed), "", 0, baseline=f"{len(record.calls)} calls; {made}")
    ]
    for share in (0.5, 0.99):
        base = quantile(quiet, share)
        name = f"p{share * 100:g} of calls during changes"
        figures.append(Figure(name, round(quantile(busy, share) / base, 3), "x", f"quiet phases: {base * 1e3:.2f} ms"))
    base = f"{len(record.applied)} documents of {ROUTES} routes, from the request to the last proxy's ACK"
    figures += [
        Figure(f"document applied, p{share * 100:g}", round(quantile(record.applied, share) * 1e3, 1), "ms", base)
        for share in (0.5, 0.99)
    ]
    return figures
