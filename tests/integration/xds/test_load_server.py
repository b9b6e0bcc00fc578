"""Load reports over mutual TLS: who may report, what is asked for, and what a bad client costs."""

import asyncio
import contextlib

import grpc
import pytest

from mesh.identity import open_server_credentials
from mesh.rpc import ServerSettings, open_server, open_target
from mesh.runtime import open_background
from mesh.state import MeshState, StateStore
from mesh.xds import LoadReports, LoadReportServer
from mesh.xds.descriptors import envoy_message

METHOD = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"


@pytest.fixture
def reports():
    return LoadReports()


@pytest.fixture
def lead():
    """Whether the control plane leads, to be changed."""
    return [True]


@pytest.fixture
async def address(authority, reports, lead):
    loads = LoadReportServer(StateStore(MeshState("mesh.test")), reports, leads=lambda: lead[0])
    async with (
        asyncio.timeout(40),
        open_server_credentials(authority.ca, require_client_certificate=True) as tls,
        open_background(loads.run()),
    ):
        settings = ServerSettings("control-plane", "127.0.0.1:0", credentials=tls.credentials, drain_grace=0.2)
        async with open_server(settings, [], generic_handlers=[loads.handler]) as server:
            yield f"127.0.0.1:{server.port}"


@pytest.fixture
def connect(address, authority):
    """A stream of a service's proxy."""

    @contextlib.asynccontextmanager
    async def open_it(service="caller"):
        svid = authority.svid(service)
        credentials = grpc.ssl_channel_credentials(
            svid.trust_bundle.encode(), svid.private_key.encode(), svid.certificate_chain.encode()
        )
        async with open_target(address, credentials=credentials, authority="control-plane.mesh") as channel:
            call = channel.stream_stream(
                METHOD,
                request_serializer=lambda it: it if isinstance(it, bytes) else it.SerializeToString(),
                response_deserializer=envoy_message("envoy.service.load_stats.v3.LoadStatsResponse").FromString,
            )()
            yield call
            call.cancel()

    return open_it


def request(node="", **clusters):
    made = envoy_message("envoy.service.load_stats.v3.LoadStatsRequest")()
    made.node.id = node
    for name, (ok, errors) in clusters.items():
        stats = made.cluster_stats.add(cluster_name=name)
        stats.upstream_locality_stats.add(
            total_successful_requests=ok, total_error_requests=errors, total_issued_requests=ok + errors
        )
    return made


async def refusal(call, *requests):
    """The status with which the server ends a call."""
    # A write that comes after the end fails, too.
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        for it in requests:
            await call.write(it)
    # The status comes after the messages.
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code()


async def test_a_proxy_is_asked_while_somebody_judges_and_its_reports_count(connect, reports, eventually):
    async with connect() as call:
        await call.write(request("caller/1"))
        with reports.judge(clusters=["echo"]):
            order = await call.read()
            assert (list(order.clusters), order.load_reporting_interval.seconds) == (["echo"], 1)
            await call.write(request(echo=(3, 1), other=(5, 5)))
            await eventually(lambda: reports.load_of("echo", 0).requests == 4)
            assert reports.load_of("echo", 0).errors == 1
        assert list((await call.read()).clusters) == []


async def test_a_proxy_that_comes_later_is_asked_at_once(connect, reports):
    with reports.judge(clusters=["echo"]):
        async with connect() as call:
            await call.write(request("caller/1"))
            assert list((await call.read()).clusters) == ["echo"]


async def test_a_proxy_cannot_report_for_another_service(connect, reports):
    with reports.judge(clusters=["echo"]):
        async with connect("other") as call:
            assert await refusal(call, request("caller/1")) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_proxy_has_one_stream(connect, reports):
    with reports.judge(clusters=["echo"]):
        async with connect() as first, connect() as second:
            await first.write(request("caller/1"))
            await first.read()
            await second.write(request("caller/1"))
            await second.read()
            assert await first.read() is grpc.aio.EOF
            assert first.done()
            assert not second.done()


async def test_who_reports_too_fast_is_sent_away_and_others_are_not(connect, reports, eventually, capfd):
    with reports.judge(clusters=["echo"]):
        async with connect("other") as good, connect() as bad:
            await good.write(request("other/1"))
            flood = (request(echo=(0, 1)) for _ in range(100))
            # A client that still writes while it is sent away calls that an error of its own.
            assert await refusal(bad, request("caller/1"), *flood) is not grpc.StatusCode.OK
            assert '"code":"RESOURCE_EXHAUSTED"' in capfd.readouterr().err
            before = reports.load_of("echo", 0).ok
            await good.write(request(echo=(7, 0)))
            await eventually(lambda: reports.load_of("echo", 0).ok == before + 7)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\0" * (5 << 20)])
async def test_what_cannot_be_read_ends_the_stream_alone(connect, reports, data):
    with reports.judge(clusters=["echo"]):
        async with connect("other") as good, connect() as bad:
            await good.write(request("other/1"))
            await good.read()
            assert await refusal(bad, request("caller/1"), data) is grpc.StatusCode.INVALID_ARGUMENT
            assert not good.done()


async def test_numbers_that_are_made_up_are_bounded(connect, reports, eventually):
    with reports.judge(clusters=["echo"]):
        async with connect() as call:
            await call.write(request("caller/1"))
            await call.write(request(echo=(2**63, 0)))
            await eventually(lambda: reports.load_of("echo", 0).ok)
            assert reports.load_of("echo", 0).ok <= 10_000_000


async def test_only_the_leader_takes_reports(connect, reports, lead):
    with reports.judge(clusters=["echo"]):
        async with connect() as call, connect("other") as late:
            await call.write(request("caller/1"))
            await call.read()
            lead[0] = False
            reports.wake()
            assert await refusal(call) is grpc.StatusCode.UNAVAILABLE
            assert await refusal(late, request("other/1")) is grpc.StatusCode.UNAVAILABLE
