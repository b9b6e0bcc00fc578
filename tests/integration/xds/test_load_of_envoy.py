"""What a real Envoy reports of gRPC calls: what counts as an error, how answers are timed, what callers give up."""

import asyncio
import json
import subprocess

import grpc
import pytest

from mesh.model import SpiffeId
from mesh.rpc import ServerSettings, open_server, open_target
from mesh.rpc.envoy_descriptors import envoy_binary
from mesh.runtime import open_background
from mesh.state import MeshState, StateStore
from mesh.xds import LoadReports, LoadReportServer
from mesh.xds.resources.timing import LOAD_HEADER, REPORTED_METRICS, UPSTREAM_FILTERS

CLUSTER = "v2.echo"
# gRPC statuses that stand for HTTP 5xx; see the decision record 0012.
ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


begun = []


async def say(request, context):
    """OK MS, STATUS NAME (nothing but the status), or LATE NAME (headers first)."""
    begun.append(request)
    what, _, argument = request.decode().partition(" ")
    if what == "OK":
        if not argument:
            await context.send_initial_metadata(((LOAD_HEADER, "TEXT named_metrics.d1=1"),))
        await asyncio.sleep(int(argument or 0) / 1000)
        return b""
    if what == "LATE":
        await context.send_initial_metadata(())
    return await context.abort(grpc.StatusCode[argument], "as asked")


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{name}", **fields}


def cluster(name, socket, *, filters=(), **more):
    options = typed(_HTTP, explicit_http_config={"http2_protocol_options": {}}, http_filters=list(filters))
    endpoint = {"endpoint": {"address": {"pipe": {"path": socket}}}}
    return {
        "name": name,
        "typed_extension_protocol_options": {_HTTP: {key: it for key, it in options.items() if it}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **more,
    }


def bootstrap(directory):
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": CLUSTER, "timeout": "0s"},
        "response_headers_to_remove": [LOAD_HEADER],
    }
    manager = typed(
        _HCM,
        stat_prefix="out",
        codec_type="HTTP2",
        internal_address_config={"unix_sockets": True},
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[
            {"name": "router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router")},
        ],
    )
    listener = {
        "name": "out",
        "address": {"pipe": {"path": f"{directory}/out.sock"}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    timed = {"lrs_report_endpoint_metrics": list(REPORTED_METRICS)}
    return {
        "node": {"id": "caller/1", "cluster": "caller"},
        "cluster_manager": {
            "load_stats_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "control"}}],
            }
        },
        "static_resources": {
            "clusters": [
                cluster("control", f"{directory}/control.sock"),
                cluster(CLUSTER, f"{directory}/app.sock", filters=UPSTREAM_FILTERS, **timed),
            ],
            "listeners": [listener],
        },
    }


@pytest.fixture
async def reports(short_dir):
    """What Envoy reports to; it is on, and the way to the server is open."""
    reports = LoadReports()
    identity = SpiffeId("mesh.test", "default", "caller")
    loads = LoadReportServer(StateStore(MeshState("mesh.test")), reports, identity_of=lambda _: identity)
    app = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("echo.v1.Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)})
    app.add_generic_rpc_handlers([handler])
    app.add_insecure_port(f"unix:{short_dir}/app.sock")
    await app.start()
    (short_dir / "bootstrap.json").write_text(json.dumps(bootstrap(short_dir)))
    settings = ServerSettings("control-plane", f"unix:{short_dir}/control.sock", drain_grace=0.2)
    async with asyncio.timeout(60), open_background(loads.run()):
        async with open_server(settings, [], generic_handlers=[loads.handler]):
            with (short_dir / "envoy.log").open("w") as log:
                envoy = subprocess.Popen(
                    [envoy_binary(), "-c", short_dir / "bootstrap.json", "--concurrency", "1", "--disable-hot-restart"],
                    stdout=log,
                    stderr=log,
                )
            try:
                with reports.judge(clusters=[CLUSTER]):
                    yield reports
            finally:
                envoy.terminate()
                envoy.wait(timeout=20)
    await app.stop(0)


@pytest.fixture
async def call(short_dir, reports, eventually):
    """Calls through Envoy; gives the status and the headers of the answer."""
    await eventually((short_dir / "out.sock").exists)
    # Envoy counts from its first order on.
    await eventually(lambda: len(reports._sources) == 1 and next(iter(reports._sources)).ledgers)
    async with open_target(f"unix:{short_dir}/out.sock", authority="echo.mesh") as channel:
        method = channel.unary_unary("/echo.v1.Echo/Say")

        async def make(text):
            made = method(text.encode(), timeout=40)
            try:
                return (await made.code()).name, dict(await made.initial_metadata())
            finally:
                made.cancel()

        yield make


async def test_only_statuses_that_stand_for_a_broken_server_are_errors(reports, call, eventually):
    names = [code.name for code in grpc.StatusCode if code.name != "OK"]
    for name in names:
        assert (await call(f"STATUS {name}"))[0] == name
    assert (await call("LATE UNAVAILABLE"))[0] == "UNAVAILABLE"
    assert (await call("LATE NOT_FOUND"))[0] == "NOT_FOUND"
    await eventually(lambda: reports.load_of(CLUSTER, 0).requests == len(names) + 2)
    load = reports.load_of(CLUSTER, 0)
    assert (load.ok, load.errors, load.unanswered) == (len(names) - len(ERRORS) + 1, len(ERRORS) + 1, 0)


async def test_answers_are_timed_whatever_the_server_says_and_callers_see_nothing_of_it(reports, call, eventually):
    for _ in range(5):
        assert LOAD_HEADER not in (await call("OK 60"))[1]
        # It claims to have taken 1 ms by the very header that the timer writes.
        assert LOAD_HEADER not in (await call("OK"))[1]
    await eventually(lambda: reports.load_of(CLUSTER, 0).timed == 10)
    load = reports.load_of(CLUSTER, 0)
    assert load.slower_than(59) >= 5
    assert load.quantile(1.0) >= 60


async def test_requests_that_callers_give_up_are_unanswered(reports, call, eventually):
    assert (await call("OK 0"))[0] == "OK"
    begun.clear()
    calls = [asyncio.ensure_future(call("OK 30000")) for _ in range(3)]
    await eventually(lambda: len(begun) == 3)
    for one in calls:
        one.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await eventually(lambda: reports.load_of(CLUSTER, 0).requests == 4)
    assert reports.load_of(CLUSTER, 0).unanswered == 3
