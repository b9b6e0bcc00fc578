"""What callers notice of changes: steady calls through two sidecars while everything changes that may change."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
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
from benchmarks.consul_cluster import PORTS, ConsulCluster, running_cluster
from benchmarks.echo_server import METHOD
from benchmarks.mesh_under_test import ROOT, Mesh, running_mesh
from benchmarks.ports import free_ports
from benchmarks.report import Figure, at_most, quantile

SECONDS = 110.0
CLUSTER_SECONDS = 50.0
"""No round of changes begins later, in a mesh with its own Consul and in one with a Consul of three servers."""
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
_STAY = 1.0
"""Seconds in which an instance that has come gets calls before it leaves."""
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
    doing: str = "nothing"

    @contextlib.contextmanager
    def change(self, kind: str) -> Iterator[None]:
        """What happens in the block is a change of this kind, counted at its end."""
        self.doing = kind
        try:
            yield
        except TimeoutError as err:
            raise RuntimeError(f"{kind}: not done within {_WAIT:g} s") from err
        finally:
            self.doing = "nothing"
        self.changes[kind] += 1

    @contextlib.contextmanager
    def span(self, spans: list[tuple[float, float]]) -> Iterator[None]:
        """Add the time of the block to spans."""
        started = time.perf_counter()
        yield
        spans.append((started, time.perf_counter()))

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
        with self.record.change(kind):
            started = time.perf_counter()
            answer = await self._config.ApplyDocument(request, timeout=_WAIT)
            self.record.applied.append(time.perf_counter() - started)
        if answer.proxies_waiting:
            raise RuntimeError(f"these have not taken a change: {', '.join(answer.proxies_waiting)}")

    async def come_and_go(self, service: str, kind: str) -> None:
        """One more instance of a service, from its start until it has left in order."""
        before = await self._healthy(service)
        command = ("run", "service", service, "--", sys.executable, "-m", "benchmarks.echo_server")
        with self.record.change(f"{kind} added"):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.meshctl.main", *command),
                cwd=ROOT,
                env=self.mesh.env,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                await self._until(service, lambda healthy: healthy > before)
                await asyncio.sleep(_STAY)
            except BaseException:
                process.kill()
                await process.wait()
                raise
        with self.record.change(f"{kind} removed"):
            try:
                process.terminate()
                async with asyncio.timeout(_WAIT):
                    await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            await self._until(service, lambda healthy: healthy == before)

    async def _healthy(self, service: str) -> int:
        answer = await self._control.ListServices(control.ListServicesRequest(), timeout=_WAIT)
        instances = [each for found in answer.services if found.name == service for each in found.instances]
        return sum(each.healthy for each in instances)

    async def _until(self, service: str, is_enough: Callable[[int], bool]) -> None:
        async with asyncio.timeout(_WAIT):
            while not is_enough(await self._healthy(service)):  # noqa: ASYNC110 - it is told to who asks
                await asyncio.sleep(0.1)

    async def restart_control_plane(self, number: signal.Signals) -> None:
        """End it; the mesh starts it again; done when all proxies are back."""
        (pid,) = [pid for pid, command in self.mesh.processes().items() if "services.control_plane" in command]
        before = await self._connected()
        with self.record.change(f"control plane {number.name}"):
            os.kill(pid, number)
            async with asyncio.timeout(_WAIT):
                while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110 - somebody else's child
                    await asyncio.sleep(0.05)
                while await self._connected() < before:  # noqa: ASYNC110 - it is told to who asks
                    await asyncio.sleep(0.05)

    async def _connected(self) -> int:
        try:
            answer = await self._control.ListProxies(control.ListProxiesRequest(), timeout=2)
        except grpc.aio.AioRpcError:
            return 0
        return len(answer.proxies)

    async def lose_consul_leader(self, cluster: ConsulCluster) -> None:
        """End Consul's leader; done when another one leads and the old one is back."""
        old = await self._leader(cluster, other_than=None)
        with self.record.change("Consul leader SIGKILL"):
            await asyncio.to_thread(cluster.kill, old)
            await self._leader(cluster, other_than=old)
        await asyncio.to_thread(cluster.restart, old)
        await self._leader(cluster, other_than=None)

    async def _leader(self, cluster: ConsulCluster, *, other_than: int | None) -> int:
        async with asyncio.timeout(_WAIT):
            while True:
                found = await asyncio.to_thread(cluster.leader)
                if found is not None and found != other_than:
                    return found
                await asyncio.sleep(0.05)

    async def rotate_roots(self, end: float) -> None:
        """Rotate the root until the monotonic clock is at `end`, and the last time to its end; count renewals, too."""
        signers: list[str] = []
        renewed: set[str] | None = None
        while True:
            try:
                answer = await self._authority.GetAuthority(authority.GetAuthorityRequest(), timeout=_WAIT)
                listed = await self._control.ListCertificates(control.ListCertificatesRequest(), timeout=_WAIT)
                signer = next(root.fingerprint for root in answer.authority.roots if root.signs)
                if signer not in signers:
                    signers.append(signer)
                    self.record.changes["root rotated"] += len(signers) > 1
                found = {each.serial for each in listed.certificates if each.reason == "renewal"}
                self.record.changes["certificate renewed"] += len(found - renewed) if renewed is not None else 0
                renewed = found | (renewed or set())
                if answer.authority.stage == "steady":
                    if time.monotonic() > end:
                        return
                    await self._authority.RotateRoot(authority.RotateRootRequest(), timeout=_WAIT)
            except grpc.aio.AioRpcError as err:
                # The control plane is being restarted.
                if err.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(1)

    async def close(self) -> None:
        """Close its connection."""
        await self._channel.close()


async def measure() -> list[Figure]:
    """Rounds of changes for three minutes, and a quiet phase before each."""
    record = Record()
    await _run(record, {"MESH_CERTIFICATE_LIFETIME": str(CERTIFICATE_SECONDS)})
    folder = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    try:
        with running_cluster(folder, free_ports(PORTS)) as cluster:
            await _run(record, {"CONSUL_HTTP_ADDR": cluster.address}, cluster)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _figures(record)


async def _run(record: Record, variables: dict[str, str], cluster: ConsulCluster | None = None) -> None:
    """In a mesh of its own; with a cluster, its leader is lost in each round, else the root changes all the time."""
    end = time.monotonic() + (SECONDS if cluster is None else CLUSTER_SECONDS)
    with running_mesh(_MESH, variables=variables) as mesh:
        operator = Operator(mesh, record)
        try:
            await operator.apply("all routes")
            async with _steady_calls(mesh, record), asyncio.TaskGroup() as group:
                if cluster is None:
                    group.create_task(operator.rotate_roots(end))
                await _change_everything(operator, end, cluster)
        finally:
            await operator.close()


async def _change_everything(operator: Operator, end: float, cluster: ConsulCluster | None) -> None:
    record = operator.record
    for number in itertools.count():
        with record.span(record.quiet):
            await asyncio.sleep(QUIET_SECONDS)
        with record.span(record.busy):
            await _round(operator, signal.SIGKILL if number % 2 else signal.SIGTERM)
            if cluster is not None:
                await operator.lose_consul_leader(cluster)
        left = end - time.monotonic()
        print(f"  {len(record.calls)} calls, {len(record.failed)} failed, {max(0, left):.0f} s left", file=sys.stderr)
        if left <= 0:
            break


async def _round(operator: Operator, number: signal.Signals) -> None:
    for _ in range(3):
        await operator.apply("all routes")
    for share in STEPS:
        await operator.apply("split", share=share)
    await operator.come_and_go("echo", "instance")
    await operator.come_and_go("newcomer", "service")
    await operator.restart_control_plane(number)


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
        started, doing = time.perf_counter(), record.doing
        try:
            await call(b"0123456789" * 10, timeout=_CALL_TIMEOUT)
        except grpc.aio.AioRpcError as err:
            record.failed.append(f"during {doing}: {err.code().name} {err.details()}")
        record.calls.append((started, time.perf_counter() - started))
        await asyncio.sleep(PAUSE)


def _document(timeout: str, share: int) -> str:
    """Routes that nobody calls, and after them the one of the calls; all of the former change with the timeout."""
    # Written by hand: a YAML library takes so long for it that the calls of this process would wait.
    idle = [
        f"      - {{name: r{number}, match: {{grpc: {{service: none.S{number}}}}}, timeout: 1m{timeout}}}\n"
        for number in range(ROUTES - 1)
    ]
    service, _, method = METHOD.lstrip("/").partition("/")
    used = (
        f"      - {{name: used, match: {{grpc: {{service: {service}, method: {method}}}}}, "
        f"split: {{echo: {100 - share}, spare: {share}}}}}\n"
    )
    return f"services:\n  echo:\n    routes:\n{''.join(idle)}{used}"


def _figures(record: Record) -> list[Figure]:
    quiet, busy = record.seconds_of(record.quiet), record.seconds_of(record.busy)
    for words, count in Counter(record.failed).most_common(5):
        print(f"  failed {count} times: {words}", file=sys.stderr)
    figures = [at_most("calls failed by changes", len(record.failed), "", 0, baseline=f"{len(record.calls)} calls")]
    figures += [
        Figure(f"changes under load: {kind}", count, "", "made while the calls went on")
        for kind, count in sorted(record.changes.items())
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
