import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration

from agentmesh.control.v1 import control_service_pb2 as pb
from mesh.config import DeclarationStore
from mesh.discovery import Leadership
from mesh.errors import FailedPrecondition, InvalidInput
from mesh.identity import CertificateAuthority, JoinTokens, read_claims
from mesh.state import MeshState, StateStore
from mesh.telemetry import configure_logs
from services.control_plane.control_service import ControlServicer
from services.control_plane.replicas import Replicas

NOBODY = cast(Any, None)


@pytest.fixture
def control(tmp_path: Path) -> ControlServicer:
    """A servicer of which operators' wishes need some parts only."""
    return ControlServicer(
        NOBODY,
        authority=CertificateAuthority.open(tmp_path / "ca", trust_domain="test.local"),
        tokens=JoinTokens.open(tmp_path / "ca"),
        declarations=DeclarationStore.open(tmp_path / "declarations.json"),
        store=StateStore(MeshState("test.local", "default")),
        registry=NOBODY,
        follower=NOBODY,
        ads=NOBODY,
        started=datetime.now(UTC),
        draining=asyncio.Event(),
        replicas=Replicas(Leadership.alone("127.0.0.1:1"), lambda _: None),
    )


async def declare(control: ControlServicer, name: str, kind: str = "service", *upstreams: str) -> None:
    await control.DeclareService(pb.DeclareServiceRequest(name=name, kind=kind, upstreams=upstreams), NOBODY)


async def create(
    control: ControlServicer, service: str, lifetime: Duration | None = None
) -> pb.CreateJoinTokenResponse:
    request = pb.CreateJoinTokenRequest(service=service, lifetime=lifetime)
    return await control.CreateJoinToken(request, NOBODY)


@pytest.mark.parametrize("name", ["control-plane", "consul"])
@pytest.mark.parametrize("kind", ["agent", "gateway", "mcp", "service"])
async def test_the_meshs_own_names_cannot_be_declared(control: ControlServicer, name: str, kind: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await declare(control, name, kind)
    assert (caught.value.reason, caught.value.field) == ("RESERVED_NAME", "name")


@pytest.mark.parametrize("name", ["control-plane", "consul"])
async def test_the_meshs_own_names_cannot_be_called(control: ControlServicer, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await declare(control, "a", "service", "b", name)
    assert caught.value.reason == "RESERVED_NAME"
    assert caught.value.field.startswith("upstreams[")


@pytest.mark.parametrize("kind", ["agent", "mcp", "service"])
async def test_the_gateways_name_is_for_gateways(control: ControlServicer, kind: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await declare(control, "gateway", kind)
    assert (caught.value.reason, caught.value.field) == ("RESERVED_NAME", "kind")


async def test_a_gateway_gets_a_token_once_it_is_declared(control: ControlServicer) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await create(control, "gateway")
    assert caught.value.reason == "NOT_A_GATEWAY"
    await declare(control, "gateway", "gateway", "*")
    assert read_claims((await create(control, "gateway")).token).service == "gateway"


async def test_a_gateway_may_have_another_name_and_may_be_called(control: ControlServicer) -> None:
    await declare(control, "edge", "gateway", "*")
    await declare(control, "a", "agent", "gateway", "*")


async def test_nobody_joins_as_the_control_plane(control: ControlServicer) -> None:
    with pytest.raises(InvalidInput) as caught:
        await create(control, "control-plane")
    assert (caught.value.reason, caught.value.field) == ("RESERVED_NAME", "service")


async def test_the_registry_joins_with_a_token(control: ControlServicer) -> None:
    assert read_claims((await create(control, "consul")).token).service == "consul"


@pytest.mark.parametrize("name", ["", "A", "a.b", "a/b", "a" * 64])
async def test_what_is_no_name_is_refused(control: ControlServicer, name: str) -> None:
    with pytest.raises(InvalidInput):
        await create(control, name)
    with pytest.raises(InvalidInput):
        await declare(control, name)


@pytest.mark.parametrize(
    "lifetime",
    [
        Duration(),
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=86_400, nanos=1000),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
    ],
)
async def test_a_lifetime_out_of_bounds_is_refused(control: ControlServicer, lifetime: Duration) -> None:
    with pytest.raises(InvalidInput) as caught:
        await create(control, "a", lifetime)
    assert caught.value.field == "lifetime"


@pytest.mark.parametrize(
    ("lifetime", "seconds"), [(None, 600), (Duration(seconds=1), 1), (Duration(seconds=86_400), 86_400)]
)
async def test_a_token_lives_as_long_as_asked_for(
    control: ControlServicer, lifetime: Duration | None, seconds: int
) -> None:
    before = datetime.now(UTC)
    response = await create(control, "a", lifetime)
    claims = read_claims(response.token)
    assert response.expire_time.ToDatetime(tzinfo=UTC) == claims.expires
    late = claims.expires - before - timedelta(seconds=seconds)
    assert timedelta(0) <= late < timedelta(seconds=30)


async def test_a_token_carries_the_fingerprint_and_is_not_logged(
    control: ControlServicer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs("test", level="debug", is_for_foreign=False)
    token = (await create(control, "a")).token
    authority = CertificateAuthority.open(tmp_path / "ca", trust_domain="test.local")
    assert read_claims(token).ca == authority.fingerprint
    logged = capsys.readouterr().err
    assert "join_token_created" in logged
    assert not any(part in logged for part in token.split(".")[1:])


async def test_declarations_are_kept_private(control: ControlServicer, tmp_path: Path) -> None:
    await declare(control, "a")
    assert stat.S_IMODE((tmp_path / "declarations.json").stat().st_mode) == 0o600
