import asyncio
import os
import signal
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.discovery import ConsulRegistry, HealthCheck, open_consul_agent, open_registration
from mesh.errors import AlreadyExists, FailedPrecondition
from mesh.model import Address, Instance


def instance_at(address: Address, *, name: str = "financial") -> Instance:
    return Instance(name, f"{name}-1", address.host, address.port, kind="mcp")


def check_of(address: Address, *, use_tls: bool = False) -> HealthCheck:
    return HealthCheck(address, use_tls=use_tls)


def is_healthy(name: str):
    return lambda snapshot: [found.is_healthy for found in snapshot.services.get(name, ())] == [True]


async def test_registered_services_survive_a_restart_on_other_ports(new_settings, free_address):
    nowhere = free_address()
    async with open_consul_agent(new_settings()) as agent:
        await ConsulRegistry(agent.address).register(instance_at(nowhere), check_of(nowhere))
    async with open_consul_agent(new_settings(bind="127.0.0.2")) as agent:
        assert await ConsulRegistry(agent.address).is_registered("financial-1")


async def test_a_killed_agent_comes_back_and_nothing_is_forgotten_meanwhile(
    new_settings, open_backend, wait_for, capfd
):
    backend = await open_backend()
    async with open_consul_agent(new_settings()) as agent:
        registry = ConsulRegistry(agent.address)
        watch = registry.watch()
        await registry.register(instance_at(backend), check_of(backend))
        before = await wait_for(watch, is_healthy("financial"))
        killed = agent.pid
        os.kill(killed, signal.SIGKILL)
        away = await wait_for(watch, lambda snapshot: not snapshot.is_available)
        assert away.services == before.services
        assert str(agent.address) in away.error
        await wait_for(watch, lambda snapshot: snapshot.is_available and is_healthy("financial")(snapshot))
        assert agent.pid != killed
        await watch.aclose()
    logs = "".join(capfd.readouterr())
    assert logs.count("registry_unavailable") == 1
    assert logs.count("registry_available") == 1


async def test_what_a_registry_with_lost_data_forgot_is_registered_again(new_settings, open_backend, wait_for, folder):
    backend = await open_backend()
    settings = new_settings(data_dir=folder / "old")
    registry = ConsulRegistry(settings.http)
    async with open_registration(registry, instance_at(backend), check_of(backend)):
        watch = registry.watch()
        async with open_consul_agent(settings):
            await wait_for(watch, is_healthy("financial"))
        away = await wait_for(watch, lambda snapshot: not snapshot.is_available)
        assert is_healthy("financial")(away)
        async with open_consul_agent(replace(settings, data_dir=folder / "new")):
            await wait_for(watch, lambda snapshot: snapshot.is_available and is_healthy("financial")(snapshot))
        await watch.aclose()


async def test_checks_over_mutual_tls_use_new_certificates_after_a_reload(
    new_settings, open_backend, wait_for, new_authority, folder
):
    old, new = new_authority("old"), new_authority("new")
    async with open_consul_agent(new_settings(tls=old.write(folder / "tls"))) as agent:
        registry = ConsulRegistry(agent.address)
        watch = registry.watch()
        first = await open_backend(old.server_credentials())
        await registry.register(instance_at(first), check_of(first, use_tls=True))
        await wait_for(watch, is_healthy("financial"))

        second = await open_backend(new.server_credentials())
        await registry.register(instance_at(second, name="utilities"), check_of(second, use_tls=True))
        refused = await wait_for(
            watch,
            lambda snapshot: (
                snapshot.services.get("utilities", (instance_at(second),))[0].health_output not in {"", "critical"}
            ),
        )
        assert not refused.services["utilities"][0].is_healthy
        new.write(folder / "tls")
        await agent.reload()
        await wait_for(watch, is_healthy("utilities"))
        await watch.aclose()


async def test_an_agent_keeps_its_files_private_and_ends_with_a_block_that_fails(new_settings):
    settings = new_settings()
    with pytest.raises(ZeroDivisionError):
        async with open_consul_agent(settings) as agent:
            pid = agent.pid
            assert stat.S_IMODE((settings.data_dir / "agent.json").stat().st_mode) == 0o600
            assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
            with pytest.raises(AlreadyExists, match="Another Consul uses the data"):
                async with open_consul_agent(replace(settings, http=Address("127.0.0.1", 0))):
                    pytest.fail("It must not get here.")
            raise ZeroDivisionError
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("setting", ["MESH_CONSUL_BIND", "MESH_CONSUL_RPC_PORT", "MESH_CONSUL_SERF_PORT"])
async def test_a_port_that_is_taken_is_named(new_settings, setting):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        change = {
            "MESH_CONSUL_BIND": {"http": Address("127.0.0.1", port)},
            "MESH_CONSUL_RPC_PORT": {"rpc_port": port},
            "MESH_CONSUL_SERF_PORT": {"serf_port": port},
        }[setting]
        with pytest.raises(AlreadyExists, match=f"127.0.0.1:{port}") as caught:
            async with open_consul_agent(new_settings(**change)):
                pass
    assert caught.value.field == setting


async def test_data_that_consul_cannot_read_gives_its_own_words(new_settings):
    settings = new_settings()
    raft = settings.data_dir / "data" / "raft"
    raft.mkdir(parents=True)
    (raft / "raft.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(FailedPrecondition, match="invalid database") as caught:
        async with open_consul_agent(settings):
            pass
    assert str(settings.data_dir) in caught.value.fix


async def test_a_data_directory_that_cannot_be_made_is_named(new_settings, folder):
    (folder / "file").write_text("")
    with pytest.raises(FailedPrecondition, match=r"cannot be kept in .*/file/consul"):
        async with open_consul_agent(new_settings(data_dir=folder / "file" / "consul")):
            pass


async def test_a_program_that_is_not_consul_gives_its_own_words(new_settings, folder):
    program = folder / "consul-impostor"
    program.write_text("#!/bin/sh\necho 'error: I am no Consul' >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(FailedPrecondition, match=r"status 3.*I am no Consul"):
        async with open_consul_agent(new_settings(binary=program)):
            pass


async def test_an_agent_that_does_not_get_ready_is_given_up(new_settings, folder):
    program = folder / "consul-sleeper"
    program.write_text("#!/bin/sh\necho $$ > pid\nexec sleep 60\n")
    program.chmod(0o755)
    settings = new_settings(binary=program, start_timeout=0.5)
    with pytest.raises(FailedPrecondition, match=r"not ready after 0\.5 s"):
        async with open_consul_agent(settings):
            pass
    assert not Path(f"/proc/{(settings.data_dir / 'pid').read_text().strip()}").exists()


async def test_cancelling_ends_the_agent(new_settings):
    pids: list[int] = []
    ready = asyncio.Event()

    async def run() -> None:
        async with open_consul_agent(new_settings()) as agent:
            pids.append(agent.pid)
            ready.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    async with asyncio.timeout(20):
        await ready.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not Path(f"/proc/{pids[0]}").exists()
