"""`python -m benchmarks.ads_server DIRECTORY MESH`: ADS by mutual TLS as the control plane serves it, steered by lines.

MESH is a JSON object: {"services": 1000, "instances": 3, "callers": {"caller-0": ["s0", ...]}}. After the line
{"port": N} each line on standard input is a command, and each is answered by one line:

    {"change": ["s0"]}            move one instance of each of the services; gives the version
    {"acked": 50}                 wait until so many proxies have acknowledged that version; seconds since the change
    {"cost": true}                CPU seconds, resident and peak memory in units of 2**20 bytes
"""

import asyncio
import json
import resource
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mesh.identity import CertificateAuthority, open_server_credentials
from mesh.identity.svid import create_key
from mesh.model import Declaration, Instance, SpiffeId
from mesh.rpc import ServerSettings, open_server
from mesh.runtime import keep_heap, open_background
from mesh.state import MeshState, StateStore
from mesh.telemetry import configure_logs
from mesh.xds import AdsServer

TRUST_DOMAIN = "bench.test"
_MOST_STREAMS = 10_000
_PAUSE = 0.005


class Steering:
    """Carries out the commands."""

    def __init__(self, store: StateStore, ads: AdsServer) -> None:
        self._store = store
        self._ads = ads
        self._changed_at = datetime.now(UTC)
        self._ports = 20_000

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        if "change" in command:
            return self._change(command["change"])
        if "acked" in command:
            return await self._acked(command["acked"])
        return cost()

    def _change(self, names: list[str]) -> dict[str, Any]:
        services = dict(self._store.current.services)
        self._ports = 20_000 + (self._ports - 19_999) % 40_000
        for name in names:
            first, *others = services[name]
            services[name] = (replace(first, port=self._ports), *others)
        self._changed_at = datetime.now(UTC)
        self._store.set_services(services)
        return {"version": self._store.current.version}

    async def _acked(self, count: int) -> dict[str, Any]:
        version = self._store.current.version
        while True:
            times = [
                (kind.ack_time - self._changed_at).total_seconds()
                for proxy in self._ads.proxies()
                for kind in proxy.resources
                if kind.type == "endpoint" and kind.acked_version == version and kind.ack_time is not None
            ]
            if len(times) >= count:
                return {"acked": len(times), "seconds": max(times, default=0.0)}
            await asyncio.sleep(_PAUSE)


def cost() -> dict[str, Any]:
    """CPU seconds and memory of this process."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Vm")
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "resident": int(status["VmRSS"].split()[0]) / 1024,
        "peak": int(status["VmHWM"].split()[0]) / 1024,
    }


def _state(mesh: dict[str, Any]) -> MeshState:
    services = {
        f"s{number}": tuple(
            Instance(f"s{number}", f"s{number}-{copy}", f"10.{number >> 8}.{number & 255}.{copy + 1}", 20_000)
            for copy in range(mesh["instances"])
        )
        for number in range(mesh["services"])
    }
    declarations = {name: Declaration(name, "agent", tuple(upstreams)) for name, upstreams in mesh["callers"].items()}
    return MeshState(TRUST_DOMAIN, services=services, declarations=declarations)


def write_certificates(authority: CertificateAuthority, directory: Path, names: list[str]) -> None:
    """Key and certificate for each of the services, and the bundle."""
    (directory / "bundle.pem").write_text(authority.bundle_pem)
    for name in names:
        key, csr = create_key()
        signed = authority.sign(csr, SpiffeId(TRUST_DOMAIN, "default", name), reason="benchmark", dns_names=())
        path = directory / f"{name}.key"
        path.touch(mode=0o600)
        path.write_text(key)
        (directory / f"{name}.pem").write_text(signed.chain_pem)


async def open_stdin() -> asyncio.StreamReader:
    """Standard input, line by line, without blocking."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    return lines


async def main(directory: Path, mesh: dict[str, Any]) -> None:
    """Serve until standard input ends."""
    configure_logs("ads-server", level="warning")
    authority = CertificateAuthority.open(directory / "ca", trust_domain=TRUST_DOMAIN)
    write_certificates(authority, directory, list(mesh["callers"]))
    store = StateStore(_state(mesh))
    ads = AdsServer(store)
    lines = await open_stdin()
    async with open_server_credentials(authority, require_client_certificate=True) as tls, open_background(ads.run()):
        settings = ServerSettings(
            "control-plane", "127.0.0.1:0", credentials=tls.credentials, max_concurrent=_MOST_STREAMS, drain_grace=0.5
        )
        async with open_server(settings, [], generic_handlers=[ads.handler]) as server:
            steering = Steering(store, ads)
            keep_heap()
            print(json.dumps({"port": server.port}), flush=True)
            while line := await lines.readline():
                print(json.dumps(await steering.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())))
