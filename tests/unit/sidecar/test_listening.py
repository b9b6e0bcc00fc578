from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidInput
from mesh.model import Address, ProxySpec
from mesh.sidecar.listening import reserve_listeners, resolve_advertised
from mesh.sidecar.run_dir import RunDirectory

RUN = RunDirectory(Path("/run/echo-1"))


def listeners_of(settings: Any) -> ProxySpec:
    with ExitStack() as stack:
        return reserve_listeners(settings, "echo-1", RUN, stack)


def test_a_pure_client_listens_on_its_own_socket_only(settings: Any) -> None:
    assert listeners_of(settings(command=None)) == ProxySpec(
        "echo", "echo-1", outbound_socket="/run/echo-1/out.sock", secrets_dir="/run/echo-1/secrets"
    )


def test_a_member_gets_a_port_and_a_socket_for_its_application(settings: Any) -> None:
    spec = listeners_of(settings())
    assert spec.inbound is not None
    assert spec.inbound.port > 0
    assert spec.app_socket == "/run/echo-1/app.sock"
    assert (spec.exposed_health, spec.edge) == (None, None)


def test_an_application_that_does_not_obey_is_met_where_it_listens(settings: Any) -> None:
    assert listeners_of(settings(app_listen="unix:/srv/own.sock")).app_socket == "/srv/own.sock"
    assert listeners_of(settings(app_listen="unix:///srv/own.sock")).app_socket == "/srv/own.sock"


def test_all_ports_are_real_ones_and_differ(settings: Any) -> None:
    spec = listeners_of(settings(exposed_health=True, edge=Address("127.0.0.1", 0)))
    assert spec.inbound is not None
    assert spec.exposed_health is not None
    assert spec.edge is not None
    ports = {spec.inbound.port, spec.exposed_health.port, spec.edge.port}
    assert len(ports) == 3
    assert 0 not in ports


def test_a_socket_that_no_kernel_takes_is_named(settings: Any) -> None:
    with pytest.raises(InvalidInput, match="too long") as caught:
        listeners_of(settings(app_listen=f"unix:/{'x' * 101}"))
    assert caught.value.field == "listen"


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "no.such.host.invalid", "a" * 70 + ".invalid", "bad\udce4"])
async def test_what_others_cannot_reach_is_not_advertised(host: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await resolve_advertised(host)
    assert caught.value.field == "MESH_SIDECAR_ADVERTISE"


@pytest.mark.parametrize(
    ("host", "address"), [("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::7"), ("localhost", "127.0.0.1")]
)
async def test_what_is_advertised_is_an_ip_address(host: str, address: str) -> None:
    assert await resolve_advertised(host) == address
