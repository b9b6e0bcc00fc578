"""Who may call what, on connections and streams that are open while it changes."""

import grpc
import pytest
from grpc_health.v1 import health_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
CHECK = "/grpc.health.v1.Health/Check"


def intend(*intentions, default="allow", **more):
    named = {f"i{at}": intention for at, intention in enumerate(intentions)}
    return {"mesh": {"default_intention": default}, "intentions": named, **more}


def deny(**more):
    return {"action": "deny", "callers": ["caller"], "services": ["echo"], **more}


def allow(**more):
    return {"action": "allow", "callers": ["caller"], "services": ["echo"], **more}


async def downstream_connections(world):
    """Connections that the sidecars of echo have accepted so far."""
    total = 0
    for name in ("echo-1", "echo-2"):
        found = await world.envoys[name].stats("^http.inbound.downstream_cx_total$")
        total += sum(found.values())
    return total


async def test_an_intention_counts_for_the_next_request_on_an_open_connection_and_leaves_streams_alone(world):
    await world.apply()
    stream = world.channel("echo.mesh").stream_stream("/echo.v1.Echo/Stream")(timeout=20)
    await stream.write(b"1")
    assert await stream.read() == b"1"
    await world.who(20)
    before = await downstream_connections(world)
    await world.apply(intend(deny()))
    assert await world.code() is DENIED
    await stream.write(b"2")
    assert await stream.read() == b"2"
    await world.apply(intend())
    assert await world.code() is OK
    await world.apply(intend(default="deny"))
    assert await world.code() is DENIED
    await world.apply(intend(allow(), default="deny"))
    assert await world.code() is OK
    assert await downstream_connections(world) == before
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_a_denial_beats_a_permission(world):
    await world.apply(intend(allow(), deny(methods=["echo.v1.Echo/Say"]), default="deny"))
    assert await world.code(method="/echo.v1.Echo/Say") is DENIED
    assert await world.code(method="/echo.v1.Echo/Other") is OK


@pytest.mark.parametrize(
    ("methods", "denied", "allowed"),
    [
        (["echo.v1.Echo/Say"], "/echo.v1.Echo/Say", "/echo.v1.Echo/SayMore"),
        (["echo.v1.Echo/*"], "/echo.v1.Echo/Any", "/echo.v1.Echoes/Any"),
        (["/echo.v1.Echo/Say"], "/echo.v1.Echo/Say", "/echo.v1.Echo/SayMore"),
        (["/echo.*"], "/echo.v1.Echo/Say", "/other.v1.Echo/Say"),
        (["*"], "/any.Any/Any", None),
    ],
)
async def test_methods_are_told_apart(world, methods, denied, allowed):
    await world.apply(intend(deny(methods=methods)))
    assert await world.code(method=denied) is DENIED
    if allowed is not None:
        assert await world.code(method=allowed) is OK


async def test_headers_of_an_intention_must_hold_too(world):
    await world.apply(intend(deny(headers={"x-tenant": {"prefix": "evil"}})))
    assert await world.code(metadata=(("x-tenant", "evil-1"),)) is DENIED
    assert await world.code(metadata=(("x-tenant", "good"),)) is OK
    assert await world.code() is OK


async def test_callers_are_told_apart(world):
    await world.apply(intend(deny(callers=["gateway"])))
    assert await world.code(caller="caller") is OK
    assert await world.code(caller="gateway") is DENIED
    await world.apply(intend(allow(callers=["*"], services=["*"]), deny(callers=["caller"]), default="deny"))
    assert await world.code(caller="caller") is DENIED
    assert await world.code(caller="gateway") is OK


async def test_health_checks_are_no_calls(world):
    """Sidecars of callers check health; what they may call is another thing."""
    await world.apply(intend(deny(callers=["*"]), default="deny"))
    check = world.channel("echo.mesh").unary_unary(
        CHECK,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    assert (await check(health_pb2.HealthCheckRequest(), timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
    assert await world.code() is DENIED


async def test_a_revoked_identity_is_denied_at_once_even_its_health_checks(world):
    await world.apply(intend(allow(), default="deny"))
    assert await world.code() is OK
    try:
        world.store.set_revoked(frozenset({"caller"}))
        await world.settle()
        assert await world.code() is DENIED
        assert await world.code(caller="gateway") is DENIED
        assert await world.code(method=CHECK) is DENIED
        await world.apply()
        assert await world.code() is DENIED
        assert await world.code(caller="gateway") is OK
    finally:
        world.store.set_revoked(frozenset())
        await world.settle()
    assert await world.code() is OK
