"""`meshctl status`: whether the mesh is ready, and what is not well."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import click

from agentmesh.control.v1 import control_pb2, control_service_pb2
from mesh.config import MeshSettings
from services.meshctl.connection import TIMEOUT, RunningMesh, open_control, running_file
from services.meshctl.crashes import read_crashes
from services.meshctl.logs import logs_dir
from services.meshctl.output import output_option, print_table, shorten, shorten_text, show


def find_ill(services: Iterable[control_pb2.Service], expected: Iterable[str]) -> dict[str, str]:
    """The services that are not as they should be, and why: those expected need an instance, and every one health."""
    found = {service.name: service for service in services}
    ill = {name: "not registered" for name in expected if name not in found or not found[name].instances}
    for name, service in found.items():
        if sick := [instance for instance in service.instances if not instance.healthy]:
            ill[name] = "; ".join(f"{instance.id}: {_why(instance.health_output)}" for instance in sick)
    return ill


def _why(health_output: str) -> str:
    """The check's own words, on one line."""
    return " ".join(health_output.split()) or "its health check does not pass"


async def read_status(settings: MeshSettings) -> dict[str, object]:
    """The answer of `meshctl status --output json`."""
    running = RunningMesh.load(settings)
    expected = running.services if running else ()
    async with open_control(settings) as control:
        mesh = await control.GetMesh(control_service_pb2.GetMeshRequest(), timeout=TIMEOUT)
        found = await control.ListServices(control_service_pb2.ListServicesRequest(), timeout=TIMEOUT)
    services = [service for service in found.services if service.instances or service.name in expected]
    ill = find_ill(services, expected)
    return {
        "ready": mesh.registry_available and not ill,
        "version": mesh.version,
        "trust_domain": mesh.trust_domain,
        "registry": {
            "kind": mesh.registry,
            "address": mesh.registry_address,
            "available": mesh.registry_available,
            "error": mesh.registry_error,
        },
        "control_planes": [{"address": each, "leads": each == mesh.leader} for each in mesh.control_planes],
        "services": [
            {
                "name": service.name,
                "kind": service.kind,
                "instances": len(service.instances),
                "healthy": sum(instance.healthy for instance in service.instances),
                "addresses": [f"{instance.address}:{instance.port}" for instance in service.instances],
                "capabilities": sorted({name for instance in service.instances for name in instance.capabilities}),
                "upstreams": list(service.upstreams),
                "error": ill.get(service.name, ""),
            }
            for service in services
        ],
        "crashes": [
            {"name": it.name, "count": it.count, "last": it.last.isoformat(), "said": it.said}
            for it in read_crashes(logs_dir(settings), since=_started(settings))
        ],
        "endpoints": running.endpoints if running else {},
    }


def _started(settings: MeshSettings) -> datetime | None:
    """When `up` began to start the members."""
    try:
        return datetime.fromtimestamp(running_file(settings).stat().st_mtime, UTC)
    except OSError:
        return None


@click.command()
@output_option
@click.pass_obj
def status(settings: MeshSettings, output: str) -> None:
    """Show whether the mesh is ready, its services and where it is reached."""
    facts = asyncio.run(read_status(settings))

    def render() -> None:
        click.echo(f"{'ready' if facts['ready'] else 'NOT READY'}  (agentmesh {facts['version']})")
        render_services(facts["services"])
        render_ill(facts["services"])
        render_crashes(facts["crashes"])
        registry = facts["registry"]
        assert isinstance(registry, dict)
        if not registry["available"]:
            click.echo(f"{registry['kind']} at {registry['address']} does not answer: {registry['error']}")
        render_endpoints(facts["endpoints"])
        render_control_planes(facts["control_planes"])

    show(output, facts, render)
    if not facts["ready"]:
        raise SystemExit(1)


def render_services(services: object) -> None:
    """Print the services of `read_status` as a table."""
    assert isinstance(services, list)
    rows = [
        (
            service["name"],
            service["kind"],
            f"{service['healthy']}/{service['instances']}",
            ", ".join(service["addresses"]) or "-",
            shorten(service["capabilities"]) or "-",
        )
        for service in services
    ]
    print_table(("service", "kind", "healthy", "address (mTLS)", "skills and tools"), rows, empty="No services.")


def render_ill(services: object) -> None:
    """Print why services of `read_status` are not healthy, and where more is said."""
    assert isinstance(services, list)
    for service in services:
        if service["error"]:
            click.echo(f"{service['name']} is not healthy: {service['error']}. See `meshctl logs {service['name']}`.")


def render_crashes(crashes: object) -> None:
    """Print what has died of late, though it may be healthy at this moment."""
    assert isinstance(crashes, list)
    for crash in crashes:
        said = f", and said last: {shorten_text(crash['said'])}" if crash["said"] else ""
        times = "once" if crash["count"] == 1 else f"{crash['count']} times"
        click.echo(f"{crash['name']} died {times} in the last 5 min{said}. See `meshctl logs {crash['name']}`.")


def render_endpoints(endpoints: object) -> None:
    """Print where the mesh is reached."""
    assert isinstance(endpoints, dict)
    print_table(("endpoint", "where"), sorted(endpoints.items()), empty="No endpoints are written down.")


def render_control_planes(control_planes: object) -> None:
    """Print all control planes where there are several."""
    assert isinstance(control_planes, list)
    if len(control_planes) > 1:
        said = (f"{each['address']}{' (leads)' if each['leads'] else ''}" for each in control_planes)
        click.echo(f"control planes: {', '.join(said)}")
