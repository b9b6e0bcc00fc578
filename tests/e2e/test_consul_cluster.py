"""A Consul of three servers, run by somebody else, loses its leader under load."""

import asyncio
import contextlib
import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from mesh.discovery import find_consul

ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """Three Consul servers; members talk to the first that does not lead."""

    def __init__(self, folder, ports):
        self.http = [ports.pop() for _ in range(3)]
        self.rpc = [ports.pop() for _ in range(3)]
        self.serf = [ports.pop() for _ in range(3)]
        self.processes = [self._start(folder, number) for number in range(3)]

    def _start(self, folder, number):
        config = folder / f"consul-{number}.json"
        config.write_text(
            json.dumps(
                {
                    "server": True,
                    "bootstrap_expect": 3,
                    "node_name": f"server-{number}",
                    "data_dir": str(folder / f"data-{number}"),
                    "bind_addr": "127.0.0.1",
                    "client_addr": "127.0.0.1",
                    "ports": {
                        "http": self.http[number],
                        "server": self.rpc[number],
                        "serf_lan": self.serf[number],
                        "serf_wan": -1,
                        "dns": -1,
                        "grpc": -1,
                    },
                    "retry_join": [f"127.0.0.1:{port}" for port in self.serf],
                    "retry_interval": "1s",
                    "performance": {"raft_multiplier": 1},
                    "disable_update_check": True,
                    "log_level": "warn",
                }
            )
        )
        with (folder / f"consul-{number}.log").open("wb") as log:
            return subprocess.Popen(
                [find_consul(ROOT / ".tools", progress=print), "agent", f"-config-file={config}"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def leader(self):
        """The number of the server that leads in the eyes of one that lives, None while there is none."""
        for number, process in enumerate(self.processes):
            if process.poll() is None:
                with contextlib.suppress(OSError, ValueError):
                    url = f"http://127.0.0.1:{self.http[number]}/v1/status/leader"
                    with urllib.request.urlopen(url, timeout=2) as answer:
                        address = json.load(answer)
                    if address:
                        return self.rpc.index(int(address.rpartition(":")[2]))
        return None

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(timeout=10)


@pytest.fixture
def cluster(short_state_dir, some_ports):
    running = Cluster(short_state_dir, some_ports(9))
    yield running
    running.close()


async def wait_for(what, *, timeout=40.0):
    async with asyncio.timeout(timeout):
        while not (found := await asyncio.to_thread(what)):
            await asyncio.sleep(0.05)
    return found


async def test_the_loss_of_consuls_leader_fails_no_call(cluster, start_mesh, load_mesh_file, new_load):
    await wait_for(lambda: cluster.leader() is not None)
    old = cluster.leader()
    agent = cluster.http[(old + 1) % 3]
    with start_mesh(load_mesh_file, CONSUL_HTTP_ADDR=f"127.0.0.1:{agent}") as mesh:
        load = new_load(mesh.outbound("caller-1"))
        async with load.running():
            await load.calls(100)
            cluster.processes[old].kill()
            await wait_for(lambda: cluster.leader() not in (None, old))
            await load.calls(100)
            await wait_for(mesh.is_ready)
            await load.calls(100)
        assert load.failed == []
        services = {service["name"]: service for service in mesh.json("status")["services"]}
        assert services["echo"]["healthy"] == 2
