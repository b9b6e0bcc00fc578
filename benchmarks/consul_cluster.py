"""A Consul of three servers and an agent, run by somebody else than the mesh, any of which may die."""

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mesh.discovery import find_consul

PORTS = 11
"""How many a cluster needs."""

_SERVERS = 3
_TOOLS = Path(__file__).resolve().parents[1] / ".tools"
_START_TIMEOUT = 40.0


class ConsulCluster:
    """Members talk to the agent at `address`, which finds a server that answers. Made by `running_cluster`."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self._folder = folder
        self._binary = find_consul(_TOOLS, progress=print)
        self._rpc, self._serf, self._http = ports[:3], ports[3:7], ports[7:11]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        """The agent's HTTP address."""
        return f"127.0.0.1:{self._http[_SERVERS]}"

    def start(self) -> None:
        """Start all; returns before they have a leader."""
        self._processes += [self._start(number) for number in range(_SERVERS + 1)]

    def leader(self) -> int | None:
        """The number of the server that leads in the eyes of all servers that live, None while there is none."""
        living = [n for n, process in enumerate(self._processes[:_SERVERS]) if process.poll() is None]
        found = {self._leader_known_to(number) for number in living}
        return found.pop() if len(found) == 1 else None

    def kill(self, number: int) -> None:
        """End a server by SIGKILL."""
        self._processes[number].kill()
        self._processes[number].wait(timeout=10)

    def restart(self, number: int) -> None:
        """Start a server that was killed, with the data it had."""
        self._processes[number] = self._start(number)

    def close(self) -> None:
        """End all."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(timeout=10)

    def _leader_known_to(self, number: int) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            url = f"http://127.0.0.1:{self._http[number]}/v1/status/leader"
            with urllib.request.urlopen(url, timeout=2) as answer:
                address = json.load(answer)
            if address:
                return self._rpc.index(int(address.rpartition(":")[2]))
        return None

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        config = self._folder / f"consul-{number}.json"
        config.write_text(json.dumps(self._config(number)))
        with (self._folder / f"consul-{number}.log").open("ab") as log:
            command = [str(self._binary), "agent", f"-config-file={config}"]
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _config(self, number: int) -> dict[str, Any]:
        ports = {"http": self._http[number], "serf_lan": self._serf[number], "serf_wan": -1, "dns": -1, "grpc": -1}
        config = {
            "node_name": f"node-{number}",
            "data_dir": str(self._folder / f"data-{number}"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": ports,
            "retry_join": [f"127.0.0.1:{port}" for port in self._serf[:_SERVERS]],
            "retry_interval": "1s",
            "disable_update_check": True,
            "log_level": "warn",
        }
        if number == _SERVERS:
            return config
        server = {"server": True, "bootstrap_expect": _SERVERS, "performance": {"raft_multiplier": 1}}
        return config | server | {"ports": ports | {"server": self._rpc[number]}}


@contextlib.contextmanager
def running_cluster(folder: Path, ports: Sequence[int]) -> Iterator[ConsulCluster]:
    """A cluster that has a leader, its files in `folder`, on PORTS free ports; raises RuntimeError without leader."""
    cluster = ConsulCluster(folder, ports)
    try:
        cluster.start()
        end = time.monotonic() + _START_TIMEOUT
        while cluster.leader() is None:
            if time.monotonic() > end:
                raise RuntimeError(f"Consul has found no leader; see {folder}/consul-*.log")
            time.sleep(0.05)
        yield cluster
    finally:
        cluster.close()
