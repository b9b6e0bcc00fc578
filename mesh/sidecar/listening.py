"""Where one sidecar listens: its ports taken, its sockets checked, its addresses resolved."""

import asyncio
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mesh.errors import InvalidInput
from mesh.model import Address, ProxySpec
from mesh.sidecar.run_dir import RunDirectory, check_socket_path
from mesh.sidecar.settings import MemberSettings
from mesh.sidecar.tcp import reserve, resolve

_EVERY_ADDRESS = {"0.0.0.0", "::", ""}  # noqa: S104 - compared with, not bound to
_BIND, _ADVERTISE = "MESH_SIDECAR_BIND", "MESH_SIDECAR_ADVERTISE"
_EDGE, _EDGE_TLS = "MESH_GATEWAY_BIND", "MESH_GATEWAY_TLS_BIND"


def reserve_listeners(settings: MemberSettings, instance: str, run_dir: RunDirectory, stack: ExitStack) -> ProxySpec:
    """Take the ports of a sidecar until `stack` ends, and tell where everything of it is.

    Raises AlreadyExists for a port that is taken, InvalidInput for an address or a path that cannot be used.
    """
    spec = ProxySpec(
        service=settings.service,
        instance=instance,
        outbound_socket=str(run_dir.outbound_socket),
        secrets_dir=str(run_dir.secrets),
        zone=settings.zone,
    )
    if settings.is_pure_client:
        return spec
    app_socket = Path(settings.app_listen.removeprefix("unix:")) if settings.app_listen else run_dir.app_socket
    check_socket_path(app_socket, field="listen", fix="Let the application listen at a shorter path.")
    inbound = stack.enter_context(reserve(settings.bind, field=_BIND))
    health = edge = edge_tls = None
    if settings.exposed_health:
        health = stack.enter_context(reserve(Address(settings.bind.host, 0), field=_BIND))
    if settings.edge is not None:
        edge = stack.enter_context(reserve(settings.edge, field=_EDGE))
    if settings.edge_tls is not None:
        edge_tls = stack.enter_context(reserve(settings.edge_tls, field=_EDGE_TLS))
    if settings.has_edge:
        spec = replace(spec, guard_socket=str(run_dir.guard_socket), web_socket=str(run_dir.web_socket))
    return replace(
        spec, inbound=inbound, app_socket=str(app_socket), exposed_health=health, edge=edge, edge_tls=edge_tls
    )


async def resolve_advertised(host: str) -> str:
    """The IP address that other members are told; raises InvalidInput when there is none."""
    if host in _EVERY_ADDRESS:
        raise InvalidInput(
            f"{host!r} is no address that others can reach.",
            field=_ADVERTISE,
            fix="Set it to this machine's address as the other members see it.",
        )
    try:
        _, address = await asyncio.to_thread(resolve, host)
    except (OSError, UnicodeError) as err:
        why = err.strerror if isinstance(err, socket.gaierror) else str(err)
        raise InvalidInput(
            f"{host!r} has no address: {why}.",
            field=_ADVERTISE,
            fix="Set it to this machine's IP address as the other members see it.",
        ) from err
    return address
