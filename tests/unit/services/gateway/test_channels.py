import asyncio
import gc

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import InvalidInput
from services.gateway.channels import Channels


class Health(health_pb2_grpc.HealthServicer):
    async def Check(self, request, context):
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
async def target(short_folder):
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    server.add_insecure_port(f"unix:{short_folder}/out.sock")
    await server.start()
    yield f"unix:{short_folder}/out.sock"
    await server.stop(0)


async def ask(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status


async def test_a_channel_stays_open_while_others_use_it(target):
    async with Channels(target) as channels:
        for _ in range(3):
            async with channels.use("one") as channel:
                # What nobody holds is closed when it is collected.
                gc.collect()
                await asyncio.sleep(0)
                assert await ask(channel) == health_pb2.HealthCheckResponse.SERVING
        assert len(channels) == 1


async def test_the_longest_idle_are_closed_and_none_in_use(target):
    async with Channels(target, most_idle=2) as channels:
        async with channels.use("used") as used:
            for name in ("a", "b", "c", "d"):
                async with channels.use(name):
                    pass
            assert len(channels) == 3
            assert await ask(used) == health_pb2.HealthCheckResponse.SERVING
        assert len(channels) == 2


async def test_all_are_closed_at_the_end(target):
    async with Channels(target) as channels, channels.use("one") as channel:
        assert await ask(channel)
    assert not len(channels)
    with pytest.raises((grpc.aio.UsageError, asyncio.CancelledError)):
        await ask(channel)


async def test_a_name_that_is_none_is_refused(target):
    async with Channels(target) as channels:
        with pytest.raises(InvalidInput):
            async with channels.use("No Name"):
                pass
