"""A mesh started by `meshctl up` on free ports, as a user starts it, and what can be seen of its processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ports import free_ports

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "sidecar_config" / "mesh.yaml"
PAIR = Path(__file__).with_name("pair.yaml")

_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 60.0


@dataclass(frozen=True)
class Mesh:
    """A running mesh. `ready_seconds` is the time from the start of the command to its "ready"."""

    env: dict[str, str]
    state_dir: Path
    ready_seconds: float
    pid: int

    @property
    def consul(self) -> str:
        """Consul's HTTP address."""
        return self.env["MESH_CONSUL_BIND"]

    @property
    def gateway(self) -> str:
        """The edge's address."""
        return self.env["MESH_GATEWAY_BIND"]

    def run_dir(self, instance: str) -> Path:
        """The folder of a member."""
        return self.state_dir / "run" / instance

    def meshctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What an operator does, in a process of its own."""
        command = [sys.executable, "-m", "services.meshctl.main", *arguments]
        return subprocess.run(command, check=False, cwd=ROOT, env=self.env, timeout=60, capture_output=True, text=True)

    def processes(self) -> dict[int, str]:
        """Process id and command line of everything that the mesh consists of."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                environ = (entry / "environ").read_bytes().decode(errors="replace")
                if command and (f"MESH_STATE_DIR={self.state_dir}\0" in environ or str(self.state_dir) in command):
                    found[int(entry.name)] = command
        return found


@contextlib.contextmanager
def running_mesh(
    mesh_file: Path, *, state_dir: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Mesh]:
    """Start a mesh, ready on entry, and stop it at the end. A given state directory is left behind."""
    directory = state_dir or Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    env = _environment(directory) | dict(variables or {})
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.meshctl.main", "up", "--file", str(mesh_file)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_until_ready(process, started)
        yield Mesh(env, directory, time.monotonic() - started, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        if state_dir is None:
            shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[str], started: float) -> None:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.rstrip().endswith("s  ready"):
            return
        if time.monotonic() - started > _START_TIMEOUT:
            break
    raise RuntimeError(f"the mesh did not get ready:\n{said}")


def _environment(state_dir: Path) -> dict[str, str]:
    binds = ("GATEWAY_BIND", "GATEWAY_TLS_BIND", "CONTROL_BIND", "ENROLMENT_BIND", "CONSUL_BIND")
    names = (*binds, "CONSUL_RPC_PORT", "CONSUL_SERF_PORT")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MESH_", "CONSUL_"))}
    return (
        given
        | {"MESH_STATE_DIR": str(state_dir)}
        | {f"MESH_{name}": str(port) if name.endswith("PORT") else f"127.0.0.1:{port}" for name, port in ports.items()}
    )
