"""A whole mesh, started by `meshctl up` as a user starts it, on ports and in a state directory of its own."""

import asyncio
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
MESHCTL = (sys.executable, "-m", "services.meshctl.main")
READY_TIMEOUT = 90.0


@dataclass(frozen=True)
class RunningMesh:
    """A mesh under test: how to talk to it, and which processes belong to it."""

    env: dict[str, str]
    state_dir: Path
    up: subprocess.Popen[str]

    @property
    def gateway(self) -> str:
        return self.env["MESH_GATEWAY_BIND"]

    def outbound(self, instance: str) -> str:
        """The target of a member's own way out."""
        return f"unix:{self.state_dir}/run/{instance}/out.sock"

    def meshctl(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MESHCTL, *arguments], env=self.env, cwd=ROOT, timeout=timeout, capture_output=True, text=True
        )

    def json(self, *arguments: str) -> Any:
        done = self.meshctl(*arguments, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def processes(self) -> dict[int, str]:
        """Pid and command line of every process that belongs to this mesh."""
        return {pid: command for pid, command in _processes() if str(self.state_dir) in f"{command} {_environ(pid)}"}

    def pid_of(self, *signs: str) -> int:
        """The one process of this mesh whose command line and environment hold all the signs."""
        found = [
            pid
            for pid, command in self.processes().items()
            if all(sign in f"{command} {_environ(pid)}" for sign in signs) and pid != self.up.pid
        ]
        assert len(found) == 1, f"{signs}: {found}"
        return found[0]

    def wait_for(self, what: Callable[[], bool], *, timeout: float = 30.0) -> None:
        end = time.monotonic() + timeout
        while not what():
            assert time.monotonic() < end, f"not within {timeout:g} s; {self.log_tail()}"
            time.sleep(0.05)  # what is asked for happens in other processes

    def is_ready(self) -> bool:
        done = self.meshctl("status", "--output", "json")
        return done.returncode == 0 and json.loads(done.stdout)["ready"]

    def log_tail(self, lines: int = 15) -> str:
        log = self.state_dir / "logs" / "mesh.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "no log"

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)


def _processes() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if command:
                yield int(entry.name), command


def _environ(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def environment(state_dir: Path) -> dict[str, str]:
    gateway, gateway_tls, control, enrolment, consul, rpc, serf = free_ports(7)
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MESH_", "CONSUL_"))}
    return given | {
        "MESH_STATE_DIR": str(state_dir),
        "MESH_GATEWAY_BIND": f"127.0.0.1:{gateway}",
        "MESH_GATEWAY_TLS_BIND": f"127.0.0.1:{gateway_tls}",
        "MESH_CONTROL_BIND": f"127.0.0.1:{control}",
        "MESH_ENROLMENT_BIND": f"127.0.0.1:{enrolment}",
        "MESH_CONSUL_BIND": f"127.0.0.1:{consul}",
        "MESH_CONSUL_RPC_PORT": str(rpc),
        "MESH_CONSUL_SERF_PORT": str(serf),
    }


@contextlib.contextmanager
def running_mesh(mesh_file: Path, **more: str) -> Iterator[RunningMesh]:
    """Start a mesh, ready on entry; at the end it is stopped by SIGTERM and must leave no process."""
    state_dir = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    env = environment(state_dir) | more
    up = subprocess.Popen(
        [*MESHCTL, "up", "--file", str(mesh_file)],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    mesh = RunningMesh(env, state_dir, up)
    try:
        said = _Lines(up).read_until("s  ready", READY_TIMEOUT)
        assert up.poll() is None, f"meshctl up ended: {said}\n{mesh.log_tail()}"
        yield mesh
        up.send_signal(signal.SIGTERM)
        up.wait(timeout=60)
        assert up.returncode == 0
        assert mesh.processes() == {}
    except BaseException:
        # Shown by pytest with the failure.
        print(mesh.log_tail(100))
        raise
    finally:
        if up.poll() is None:
            up.kill()
            up.wait(timeout=10)
        shutil.rmtree(state_dir, ignore_errors=True)


class _Lines:
    """What a process prints, read by a thread so that it never blocks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()

    def read_until(self, sign: str, timeout: float) -> str:
        """All up to the line that holds `sign`, or to the end."""
        end = time.monotonic() + timeout
        said = ""
        while sign not in said:
            line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            if line is None:
                break
            said += line
        return said

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@dataclass
class Load:
    """Calls of /echo.v1.Echo/Say, `workers` at a time, without pause and without marks that allow a repetition."""

    target: str
    workers: int = 8
    milliseconds: int = 20
    answered: list[tuple[float, str]] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        options = [("grpc.default_authority", "echo.mesh"), ("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(self.target, options) as channel:
            say = channel.unary_unary("/echo.v1.Echo/Say")
            stopping = asyncio.Event()
            workers = [asyncio.create_task(self._work(say, stopping)) for _ in range(self.workers)]
            try:
                yield
            finally:
                stopping.set()
                await asyncio.gather(*workers)

    async def _work(self, say: Any, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            began = time.monotonic()
            try:
                answer = await say(b"%d" % self.milliseconds, timeout=10)
            except grpc.aio.AioRpcError as err:
                self.failed.append((began, f"{err.code().name} {err.details()}"))
            else:
                self.answered.append((began, answer.partition(b" ")[0].decode()))

    async def calls(self, count: int) -> None:
        """Wait until so many more calls have been answered."""
        wanted = len(self.answered) + count
        async with asyncio.timeout(60):
            while len(self.answered) < wanted:
                await asyncio.sleep(0.01)

    def answered_since(self, moment: float) -> set[str]:
        return {instance for began, instance in self.answered if began >= moment}


@pytest.fixture(scope="session")
def mesh() -> Iterator[RunningMesh]:
    """The example mesh, shared by all tests that do not harm it."""
    with running_mesh(HERE / "mesh.yaml") as running:
        yield running


@pytest.fixture
def load_mesh() -> Iterator[RunningMesh]:
    """A service with two instances and its caller, for one test that may break what it likes."""
    with running_mesh(HERE / "load_mesh.yaml") as running:
        yield running


@pytest.fixture(scope="session")
def start_mesh() -> Callable[..., contextlib.AbstractContextManager[RunningMesh]]:
    return running_mesh


@pytest.fixture(scope="session")
def lines_of() -> Callable[[subprocess.Popen[str]], _Lines]:
    return _Lines


@pytest.fixture
def mesh_environment() -> Callable[[Path], dict[str, str]]:
    return environment


@pytest.fixture(scope="session")
def canary_mesh_file() -> Path:
    return HERE / "canary_mesh.yaml"


@pytest.fixture(scope="session")
def load_mesh_file() -> Path:
    return HERE / "load_mesh.yaml"


@pytest.fixture
def new_load() -> Callable[..., Load]:
    return Load
