"""`meshctl run client --proxyless`: gRPC's own xDS client in a whole mesh, while certificates and processes change."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MESHCTL = (sys.executable, "-m", "services.meshctl.main")
PROGRAM = Path(__file__).parent / "servers" / "proxyless.py"
LIFETIME = 16


@pytest.fixture
def short_lived_mesh(start_mesh, load_mesh_file):
    with start_mesh(load_mesh_file, MESH_CERTIFICATE_LIFETIME=str(LIFETIME)) as running:
        yield running


class Calls:
    def __init__(self, path):
        self._path = path

    def all(self):
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [(float(moment), answer) for moment, _, answer in (line.partition(" ") for line in lines)]

    def since(self, moment):
        return [answer for began, answer in self.all() if began > moment]

    def failed(self):
        return [answer for _, answer in self.all() if answer.startswith("FAILED")]


def test_calls_go_on_over_renewed_certificates_and_another_control_plane(short_lived_mesh, lines_of, short_dir):
    mesh = short_lived_mesh
    calls = Calls(short_dir / "answers")
    command = ("run", "client", "viewer", "--proxyless", "--upstream", "echo", "--", sys.executable, str(PROGRAM))
    running = subprocess.Popen(
        [*MESHCTL, *command],
        env=mesh.env | {"ANSWERS": str(short_dir / "answers")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert "viewer is in the mesh as a client of xds:///echo" in lines_of(running).read_until("xds:///", 60)
        mesh.wait_for(calls.all)
        began = time.time()
        assert not [it for it in mesh.processes().values() if "envoy" in it and "run/viewer" in it]

        # Both instances answer, and know who calls.
        mesh.wait_for(lambda: {it.split()[0] for it in calls.since(began)} == {"echo-1", "echo-2"})
        assert all("svc/viewer" in answer for answer in calls.since(began))

        old = mesh.pid_of("services.control_plane")
        mesh.kill(old)
        mesh.wait_for(lambda: _is_back(mesh, old))
        # The client finds the new one, and goes on with what it has until then.
        mesh.wait_for(lambda: _proxy_of(mesh, "viewer") is not None)
        assert calls.failed() == []

        mesh.wait_for(lambda: time.time() > began + LIFETIME)
        late = time.time()
        mesh.wait_for(lambda: len(calls.since(late)) > 20)
        assert calls.failed() == []
        refusals = [it.get("nack_message") for it in _proxy_of(mesh, "viewer")["resources"]]
        assert not any(refusals), refusals
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    assert not any("viewer" in command for command in mesh.processes().values())
    assert not list((mesh.state_dir / "run").glob("viewer-*"))


def _is_back(mesh, old):
    found = [pid for pid, command in mesh.processes().items() if "services.control_plane" in command]
    return found and old not in found and mesh.is_ready()


def _proxy_of(mesh, service):
    return next((it for it in mesh.json("proxies") if it["node_id"].startswith(f"{service}/")), None)
