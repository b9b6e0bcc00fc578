"""The embedded registry over mutual TLS: who may do what, and whom it takes for healthy."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import grpc
import pytest

from mesh.discovery import HealthCheck, open_registration
from mesh.discovery.embedded import open_registry_client
from mesh.errors import PermissionDenied, Unauthenticated, Unavailable
from mesh.model import Address, Instance


def is_healthy(instance_id, *, expected=True):
    return lambda found: instance_id in found and found[instance_id].is_healthy is expected


async def test_a_member_registers_and_is_checked_with_the_identity_of_the_registry(mesh):
    async with mesh.backend("a") as backend, mesh.member("a") as member:
        async with open_registration(member, backend.instance, backend.check):
            await mesh.until(is_healthy("a-1"))
        await mesh.until(lambda found: not found)
    assert set(backend.callers) == {"spiffe://test.local/ns/default/svc/consul"}


async def test_an_instance_that_shows_the_certificate_of_another_service_is_not_healthy(mesh):
    async with mesh.backend("a", shows="b") as backend, mesh.member("a") as member:
        await member.register(backend.instance, backend.check)
        await mesh.until(lambda found: "a-1" in found and "Health/Check" in found["a-1"].health_output)
        (instance,) = [i for s in [await anext(mesh.registry.watch())] for i in s.services["a"]]
    assert not instance.is_healthy
    assert backend.callers == []


async def test_a_member_cannot_register_for_another_service(mesh):
    async with mesh.backend("b") as backend, mesh.member("a") as member:
        with pytest.raises(PermissionDenied) as caught:
            await member.register(backend.instance, backend.check)
    assert (caught.value.reason, caught.value.field) == ("WRONG_SERVICE", "instance.service")
    await mesh.until(lambda found: not found)


async def test_a_member_cannot_touch_the_instance_of_another_service(mesh):
    async with mesh.backend("a") as backend, mesh.member("a") as owner, mesh.member("b") as other:
        await owner.register(backend.instance, backend.check)
        mine = Instance("b", "a-1", "127.0.0.1", 9)
        for call in (
            other.register(mine, HealthCheck(Address("127.0.0.1", 9), use_tls=True)),
            other.renew("a-1"),
            other.deregister("a-1"),
        ):
            with pytest.raises(PermissionDenied):
                await call
        assert not await other.is_registered("a-1")
        assert await owner.is_registered("a-1")


async def test_a_member_sees_its_own_service_and_an_operator_all(mesh):
    async with mesh.backend("a") as one, mesh.backend("b") as two, mesh.operator() as operator:
        for backend in (one, two):
            await operator.register(backend.instance, backend.check)
        async with mesh.member("a") as member, aclosing(member.watch()) as seen, aclosing(operator.watch()) as all_seen:
            assert set((await anext(seen)).services) == {"a"}
            assert set((await anext(all_seen)).services) == {"a", "b"}
        target = f"127.0.0.1:{mesh.servers['members'].port}"
        async with open_registry_client(target, identity=mesh.identity("a"), service="b") as curious:
            with pytest.raises(PermissionDenied):
                await curious.is_registered("b-1")
            async with aclosing(curious.watch()) as refused:
                snapshot = await anext(refused)
    assert not snapshot.is_available
    assert "cannot act for b" in snapshot.error


@pytest.mark.parametrize(
    "change", [{"use_tls": False}, {"target": Address("169.254.169.254", 80)}], ids=["in the clear", "elsewhere"]
)
async def test_a_member_cannot_send_the_checks_where_it_likes(mesh, change):
    async with mesh.backend("a") as backend, mesh.member("a") as member:
        with pytest.raises(PermissionDenied):
            await member.register(backend.instance, replace(backend.check, **change))


async def test_a_member_of_another_namespace_is_a_stranger(mesh):
    async with mesh.member("a", namespace="other") as member:
        with pytest.raises(Unauthenticated):
            await member.is_registered("a-1")


async def test_nobody_gets_in_without_a_certificate(mesh):
    class Nobody:
        current = None

        def channel_credentials(self):
            return grpc.ssl_channel_credentials(mesh.authority.bundle_pem.encode())

    target = f"127.0.0.1:{mesh.servers['members'].port}"
    async with open_registry_client(target, identity=Nobody()) as nobody:
        with pytest.raises(Unavailable):
            await nobody.renew("a-1")


async def test_a_renewed_certificate_is_used_for_the_next_call(mesh):
    class Renewing:
        """Two certificates, one after the other; the first stands for one that has ended."""

        def __init__(self):
            self.tls = mesh.identity("a")
            self.current = object()
            self.shown = 0

        def channel_credentials(self):
            self.shown += 1
            return self.tls.channel_credentials()

    identity = Renewing()
    target = f"127.0.0.1:{mesh.servers['members'].port}"
    async with open_registry_client(target, identity=identity) as member:
        for _ in range(3):
            assert not await member.renew("a-1")
        assert identity.shown == 1
        identity.current = object()
        assert not await member.renew("a-1")
        assert identity.shown == 2


async def test_an_instance_whose_port_closes_is_unhealthy_within_two_seconds(mesh):
    async with mesh.member("a") as member:
        async with mesh.backend("a") as backend:
            await member.register(backend.instance, backend.check)
            await mesh.until(is_healthy("a-1"))
        async with asyncio.timeout(2.0):
            await mesh.until(is_healthy("a-1", expected=False))


async def test_a_watch_ends_when_the_control_plane_drains_and_says_so(mesh):
    async with mesh.member("a") as member, aclosing(member.watch()) as watch:
        assert (await anext(watch)).is_available
        mesh.draining.set()
        async with asyncio.timeout(5):
            snapshot = await anext(watch)
    assert not snapshot.is_available
