"""`meshctl doctor`: what is wrong with this machine or this mesh, and how to mend it."""

import asyncio
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

import mesh
from agentmesh.control.v1 import control_pb2, control_service_pb2
from mesh.config import MeshSettings
from mesh.errors import MeshError
from mesh.sidecar import find_envoy
from services.meshctl.connection import TIMEOUT, open_control
from services.meshctl.edge import find_edge
from services.meshctl.finding import Finding
from services.meshctl.output import output_option, print_table, show
from services.meshctl.production import look_at_production
from services.meshctl.registry import TOOLS_DIR

_ENVOY_MINOR = "1.40."


def look_at_machine(settings: MeshSettings) -> Iterator[Finding]:
    """What the mesh needs of this machine."""
    version = platform.python_version()
    yield Finding("python", sys.version_info >= (3, 11), version, "" if sys.version_info >= (3, 11) else "Use 3.11.")
    yield _look_at_envoy()
    yield _look_at_consul(settings)
    yield _look_at_state_dir(settings)


def _look_at_envoy() -> Finding:
    try:
        binary = find_envoy()
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (MeshError, OSError, subprocess.TimeoutExpired) as err:
        return Finding("envoy", False, str(err), "Install the requirements anew: make clean up.")
    words = done.stdout.split("version:")[-1].strip()
    is_known = f"/{_ENVOY_MINOR}" in words
    return Finding("envoy", is_known, words, "" if is_known else f"agentmesh is built for Envoy {_ENVOY_MINOR}x.")


def _look_at_consul(settings: MeshSettings) -> Finding:
    if settings.registry == "embedded":
        return Finding("consul", True, "not needed: MESH_REGISTRY=embedded")
    if settings.consul_is_given:
        return Finding("consul", True, f"given: {settings.consul}")
    binary = shutil.which("consul") or (str(TOOLS_DIR / "consul") if (TOOLS_DIR / "consul").exists() else "")
    if not binary and settings.registry == "auto":
        return Finding("consul", True, "not found: `meshctl up` fetches it, or does without")
    return Finding("consul", bool(binary), binary or "not found", "" if binary else "`meshctl up` fetches it.")


def _look_at_state_dir(settings: MeshSettings) -> Finding:
    path = settings.state_dir
    if not path.exists():
        return Finding("state", True, f"{path} does not exist yet")
    if not os.access(path, os.W_OK):
        return Finding("state", False, f"{path} is not writable", f"chown or chmod {path}.")
    loose = [p for p in path.rglob("*key*") if _is_open_to_others(p)]
    if loose:
        return Finding("state", False, f"{loose[0]} can be read by others", f"chmod 600 {loose[0]}")
    free = shutil.disk_usage(path).free >> 20
    return Finding("state", free > 100, f"{path}, {free} MiB free", "" if free > 100 else "Free some disk space.")


def _is_open_to_others(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        # A running mesh replaces its keys.
        return False
    return stat.S_ISREG(status.st_mode) and bool(stat.S_IMODE(status.st_mode) & 0o077)


async def look_at_mesh(settings: MeshSettings) -> list[Finding]:
    """What runs, if anything does."""
    try:
        async with open_control(settings) as control:
            facts = await control.GetMesh(control_service_pb2.GetMeshRequest(), timeout=TIMEOUT)
            services = await control.ListServices(control_service_pb2.ListServicesRequest(), timeout=TIMEOUT)
            proxies = await control.ListProxies(control_service_pb2.ListProxiesRequest(), timeout=TIMEOUT)
            signed = await control.ListCertificates(control_service_pb2.ListCertificatesRequest(), timeout=TIMEOUT)
    except MeshError as err:
        return [Finding("control plane", False, err.summary, err.fix)]
    is_same = facts.version == mesh.__version__
    findings = [
        Finding(
            "control plane",
            is_same,
            f"version {facts.version}",
            "" if is_same else f"This meshctl is {mesh.__version__}: restart the mesh with it.",
        ),
        Finding(
            "registry",
            facts.registry_available,
            f"{facts.registry} at {facts.registry_address}",
            "" if facts.registry_available else facts.registry_error,
        ),
    ]
    findings += [_look_at_service(service) for service in services.services if service.instances]
    findings += [_look_at_proxy(proxy) for proxy in proxies.proxies]
    findings.append(_look_at_certificates(list(signed.certificates)))
    findings.append(await _look_at_gateway(settings))
    return findings


def _look_at_service(service: control_pb2.Service) -> Finding:
    ill = [instance for instance in service.instances if not instance.healthy]
    healthy = len(service.instances) - len(ill)
    found = f"{healthy} of {len(service.instances)} healthy"
    fix = f"{ill[0].health_output or 'Its check has not run yet.'} See `meshctl logs {service.name}`." if ill else ""
    return Finding(f"service {service.name}", not ill, found, fix)


def _look_at_proxy(proxy: control_pb2.Proxy) -> Finding:
    refused = [resources for resources in proxy.resources if resources.held_back]
    if not refused:
        return Finding(f"proxy {proxy.node_id}", True, "accepts its configuration")
    return Finding(
        f"proxy {proxy.node_id}", False, f"refuses {', '.join(refused[0].held_back)}", refused[0].nack_message
    )


def _look_at_certificates(certificates: list[control_pb2.Certificate]) -> Finding:
    newest: dict[str, datetime] = {}
    for certificate in certificates:
        ends = certificate.expire_time.ToDatetime(tzinfo=UTC)
        newest[certificate.spiffe_id] = max(ends, newest.get(certificate.spiffe_id, ends))
    soon = [name for name, ends in newest.items() if ends - datetime.now(UTC) < timedelta(minutes=5)]
    fix = "Its launcher should have renewed it: see its logs." if soon else ""
    return Finding("certificates", not soon, f"{len(newest)} identities; ending soon: {', '.join(soon) or 'none'}", fix)


async def _look_at_gateway(settings: MeshSettings) -> Finding:
    address = find_edge(settings).address
    try:
        async with asyncio.timeout(2.0):
            _, writer = await asyncio.open_connection(address.host, address.port)
        writer.close()
    except (OSError, TimeoutError) as err:
        return Finding("gateway", False, f"{address} does not answer: {err}", "See `meshctl logs gateway`.")
    return Finding("gateway", True, f"{address} answers")


@click.command()
@click.option("--production", is_flag=True, help="Look, too, whether the mesh is set up for strangers.")
@output_option
@click.pass_obj
def doctor(settings: MeshSettings, production: bool, output: str) -> None:
    """Look at this machine and at the running mesh, and say how to mend what is wrong."""
    findings = [*look_at_machine(settings), *asyncio.run(look_at_mesh(settings))]
    if production:
        findings += asyncio.run(look_at_production(settings))
    rows = [("ok" if it.is_well else "WRONG", it.what, it.found, it.fix) for it in findings]
    show(
        output,
        [asdict(finding) for finding in findings],
        lambda: print_table(("", "what", "found", "how to mend it"), rows, empty=""),
    )
    if not all(finding.is_well for finding in findings):
        raise SystemExit(1)
