"""A single-node Consul of the mesh's own, with its web UI and data that survives restarts."""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.discovery.consul_client import ConsulClient, ConsulEndpoint, open_consul
from mesh.errors import AlreadyExists, FailedPrecondition, MeshError
from mesh.model import Address
from mesh.runtime import Backoff, Child, ChildSpec, Stop, open_background, supervise
from mesh.telemetry import get_logger

# A fixed name: the host's may change between two starts, and Consul would take the machine for another node.
NODE_NAME = "agentmesh"
READY_POLL = 0.05
FIRST_RESTART = 0.2
LONGEST_RESTART = 5.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgentTls:
    """The PEM files with which the agent shows itself to the instances that it checks."""

    ca_file: Path
    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class ConsulAgentSettings:
    """How to run a Consul agent.

    `http` is where its API and UI listen; `bind` is the IP of its cluster ports. `data_dir` is made when it is not
    there. The ports and `bind` may change between two starts. It is ready within `start_timeout` seconds or fails.
    """

    binary: Path
    data_dir: Path
    http: Address
    rpc_port: int = 8300
    serf_port: int = 8301
    bind: str = "127.0.0.1"
    tls: AgentTls | None = None
    start_timeout: float = 30.0


class ConsulAgent:
    """A running Consul agent. Made by `open_consul_agent`."""

    def __init__(self, settings: ConsulAgentSettings) -> None:
        self._settings = settings
        self._child: Child | None = None
        self._started = asyncio.Event()

    @property
    def address(self) -> Address:
        """Where its HTTP API and its UI are."""
        return self._settings.http

    @property
    def pid(self) -> int:
        """The process id; another one after a crash."""
        assert self._child is not None
        pid: int = self._child.pid
        return pid

    async def reload(self) -> None:
        """Make it read its certificate files again. Raises MeshError when it does not answer."""
        async with open_consul(ConsulEndpoint(self.address)) as client:
            await client.reload()

    async def _note_start(self, child: Child) -> None:
        self._child = child
        self._started.set()
        _log.info("consul_started", pid=child.pid, http=str(self.address))

    async def _wait_until_ready(self) -> None:
        """Return when it has a leader and shows itself; raises FailedPrecondition with its own last words."""
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                await self._started.wait()
                assert self._child is not None
                await self._wait_for_leader(self._child)
        except TimeoutError as err:
            raise self._failure(f"Consul is not ready after {self._settings.start_timeout:g} s") from err

    async def _wait_for_leader(self, child: Child) -> None:
        ended = asyncio.ensure_future(child.wait())
        try:
            async with open_consul(ConsulEndpoint(self.address)) as client:
                while not await self._is_ready(client):
                    await asyncio.wait((ended,), timeout=READY_POLL)
                    if ended.done():
                        raise self._failure(f"Consul ended with status {ended.result()} before it was ready")
        finally:
            ended.cancel()

    async def _is_ready(self, client: ConsulClient) -> bool:
        try:
            _, checks = await client.checks(None)
            # Another Consul at the address must not pass for this one.
            return bool(checks) and await client.agent_id() == _read(_consul_dir(self._settings) / "node-id")
        except MeshError:
            return False

    def _failure(self, what: str) -> FailedPrecondition:
        lines = [line.strip() for line in self._child.last_output] if self._child else []
        telling = [line for line in lines if "error" in line.lower() or "panic" in line.lower()] or lines
        words = " / ".join(telling[-3:]) or "nothing"
        return FailedPrecondition(
            f"{what}. It says: {words}",
            reason="CONSUL_FAILED",
            fix=f"Look at what it says; its data is in {self._settings.data_dir} and may be moved away to start anew.",
        )


@asynccontextmanager
async def open_consul_agent(settings: ConsulAgentSettings) -> AsyncIterator[ConsulAgent]:
    """Run a Consul server agent until the end of the block; it is restarted when it crashes.

    Ready on enter: it has a leader and answers. Raises FailedPrecondition when it does not get there, with the words
    of Consul, and AlreadyExists when one of its ports or its data is in use. Its services survive in `data_dir`.

    Measured with 1.8.7 on two cores: ready after 1.4 to 2.1 s, first start, restart and kill alike; nearly all of it
    is Raft's election timeout, which has no setting below that. In the first 3 s Consul may hold back the results of
    checks (its first synchronisation with the catalog is staggered): an instance then passes up to 2.5 s later.
    """
    if not os.access(settings.binary, os.X_OK):
        raise FailedPrecondition(
            f"{settings.binary} is not a program.", reason="NO_CONSUL", fix="Let find_consul find one."
        )
    with _own_data_dir(settings) as config_file:
        _check_ports(settings)
        command = (str(settings.binary), "agent", "-ui", f"-config-file={config_file}")
        spec = ChildSpec(name="consul", command=command, env={}, cwd=str(settings.data_dir))
        agent, stop = ConsulAgent(settings), Stop()
        backoff = Backoff(FIRST_RESTART, LONGEST_RESTART)
        async with open_background(supervise(spec, backoff=backoff, on_start=agent._note_start, stop=stop)):
            try:
                await agent._wait_until_ready()
                _log.info("consul_ready", http=str(agent.address), ui=f"http://{agent.address}/ui/")
                yield agent
            finally:
                stop.set()


def build_agent_config(settings: ConsulAgentSettings) -> dict[str, Any]:
    """The agent's configuration, in keys that 1.8 and current releases know."""
    config: dict[str, Any] = {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": NODE_NAME,
        "data_dir": str(_consul_dir(settings)),
        "bind_addr": settings.bind,
        "client_addr": settings.http.host,
        "ports": {
            "http": settings.http.port,
            "server": settings.rpc_port,
            "serf_lan": settings.serf_port,
            "serf_wan": -1,
            "dns": -1,
            "grpc": -1,
        },
        "performance": {"raft_multiplier": 1},
        "raft_protocol": 3,
        "leave_on_terminate": False,
        "skip_leave_on_interrupt": True,
        "disable_update_check": True,
        "disable_remote_exec": True,
        # Why a check fails is written down after half to one and a half of this; Consul's default is 5 min.
        "check_update_interval": "2s",
        "log_level": "warn",
    }
    if settings.tls:
        config |= {
            "ca_file": str(settings.tls.ca_file),
            "cert_file": str(settings.tls.cert_file),
            "key_file": str(settings.tls.key_file),
            "enable_agent_tls_for_checks": True,
            "verify_incoming": False,
        }
    return config


@contextmanager
def _own_data_dir(settings: ConsulAgentSettings) -> Iterator[Path]:
    """Make the data directory ours alone and give the config file in it.

    Consul 1.8 waits for ever for a data directory that another one uses, hence a lock of our own. The kernel lets go
    of it when this process dies.
    """
    with contextlib.ExitStack() as stack:
        try:
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = stack.enter_context((settings.data_dir / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            config_file = settings.data_dir / "agent.json"
            _write_privately(config_file, json.dumps(build_agent_config(settings), indent=1))
        except BlockingIOError as err:
            raise AlreadyExists(
                f"Another Consul uses the data in {settings.data_dir}.",
                reason="CONSUL_DATA_IN_USE",
                fix="Stop the mesh that runs with it, or set MESH_STATE_DIR to another directory.",
            ) from err
        except OSError as err:
            raise FailedPrecondition(
                f"Consul's data cannot be kept in {settings.data_dir}: {err.strerror or err}.",
                reason="CONSUL_DATA_NOT_WRITABLE",
                fix="Make room or make it writable, or set MESH_STATE_DIR to another directory.",
            ) from err
        yield config_file


def _check_ports(settings: ConsulAgentSettings) -> None:
    """Raise AlreadyExists for a port that is taken; Consul itself would only say so after some seconds."""
    wanted: Sequence[tuple[str, int, socket.SocketKind, str]] = (
        (settings.http.host, settings.http.port, socket.SOCK_STREAM, "MESH_CONSUL_BIND"),
        (settings.bind, settings.rpc_port, socket.SOCK_STREAM, "MESH_CONSUL_RPC_PORT"),
        (settings.bind, settings.serf_port, socket.SOCK_STREAM, "MESH_CONSUL_SERF_PORT"),
        (settings.bind, settings.serf_port, socket.SOCK_DGRAM, "MESH_CONSUL_SERF_PORT"),
    )
    for host, port, kind, setting in wanted:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as err:
                raise AlreadyExists(
                    f"Consul cannot listen on {Address(host, port)}: {err.strerror or err}.",
                    reason="CONSUL_PORT_TAKEN",
                    field=setting,
                    fix=f"End what uses it (`ss -ltnup` shows it), set {setting}, "
                    "or set CONSUL_HTTP_ADDR to use a Consul that runs already.",
                ) from err


def _consul_dir(settings: ConsulAgentSettings) -> Path:
    return settings.data_dir.absolute() / "data"


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _write_privately(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    temporary.replace(file)
