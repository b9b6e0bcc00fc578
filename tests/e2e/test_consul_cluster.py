"""A Consul of three servers, run by somebody else, loses its leader under load."""

import asyncio

import pytest

from benchmarks.consul_cluster import PORTS, running_cluster
from benchmarks.ports import free_ports


@pytest.fixture
def cluster(short_dir):
    with running_cluster(short_dir, free_ports(PORTS)) as running:
        yield running


async def wait_for(what, *, timeout=40.0):
    async with asyncio.timeout(timeout):
        while not (found := await asyncio.to_thread(what)):
            await asyncio.sleep(0.05)
    return found


async def test_the_loss_of_consuls_leader_fails_no_call(cluster, start_mesh, load_mesh_file, new_load):
    with start_mesh(load_mesh_file, CONSUL_HTTP_ADDR=cluster.address) as mesh:
        load = new_load(mesh.outbound("caller-1"))
        async with load.running():
            await load.calls(100)
            old = cluster.leader()
            cluster.kill(old)
            await wait_for(lambda: cluster.leader() not in (None, old))
            await load.calls(100)
            await wait_for(mesh.is_ready)
            await load.calls(100)
            cluster.restart(old)
            await wait_for(lambda: cluster.leader() is not None)
            await load.calls(100)
        assert load.failed == []
        services = {service["name"]: service for service in mesh.json("status")["services"]}
        assert services["echo"]["healthy"] == 2
