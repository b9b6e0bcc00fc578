"""Canaries in a whole mesh: real sidecars, a caller that calls all the time, versions that are good, bad or slow."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter

import grpc
import pytest

SERVER = (sys.executable, "tests/e2e/servers/versioned.py")
ABORTED, PROMOTED = "CANARY_PHASE_ABORTED", "CANARY_PHASE_PROMOTED"
DOCUMENT = """\
# The versions of echo.
services:
  echo:
    subsets:
      v1: {version: "1"}  # in use
      good: {version: good}
      bad: {version: bad}
      slow: {version: slow}
    split: {echo/v1: 100}
"""
QUICK = ("--interval", "1s", "--min-requests", "10")


class Load:
    """Calls one after another, some at a time, in a thread of its own; `answers` counts what comes back."""

    def __init__(self, target):
        self._target = target
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._call_for_ever()), daemon=True)
        self.answers = Counter()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join(timeout=20)

    async def _call_for_ever(self):
        options = [("grpc.default_authority", "echo.mesh")]
        async with grpc.aio.insecure_channel(self._target, options=options) as channel:
            say = channel.unary_unary("/echo.v1.Echo/Say")

            async def call():
                while not self._stopped.is_set():
                    try:
                        version = await say(b"", timeout=10)
                        self.answers[version.decode()] += 1
                    except grpc.aio.AioRpcError as err:
                        self.answers[err.code().name] += 1
                    await asyncio.sleep(0.02)

            await asyncio.gather(*(call() for _ in range(4)))


@contextlib.contextmanager
def running_version(mesh, version, lines_of, **env):
    """One more instance of echo, by `meshctl run`."""
    command = (sys.executable, "-m", "services.meshctl.main", "run", "service", "echo", "--version", version)
    process = subprocess.Popen(
        [*command, "--metadata", "zone=b", "--", *SERVER],
        env=mesh.env | {"ECHO_VERSION": version} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield lines_of(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def versions(start_mesh, lines_of, canary_mesh_file):
    """A mesh with all versions of echo, of which v1 gets all requests."""
    with start_mesh(canary_mesh_file) as mesh, contextlib.ExitStack() as stack:
        document = mesh.state_dir / "config" / "document"
        document.write_text(DOCUMENT)
        mesh.wait_for(lambda: '"revision": 2' in (mesh.state_dir / "audit.jsonl").read_text())
        started = [
            stack.enter_context(running_version(mesh, version, lines_of, **env))
            for version, env in (("good", {}), ("bad", {"FAILS": "2"}), ("slow", {"TAKES": "120"}))
        ]
        for lines in started:
            assert "echo is in the mesh" in lines.read_until("in the mesh", 30)
        yield mesh


@pytest.fixture
def load(versions):
    with Load(versions.outbound("caller-1")) as load:
        versions.wait_for(lambda: load.answers.total() > 20)
        yield load


def start(mesh, version, *options):
    done = mesh.meshctl("canary", "start", "echo", "--from", "v1", "--to", version, *QUICK, *options, "--watch")
    return done, mesh.json("canary", "status", "echo")


def test_a_version_that_fails_is_given_up_and_nobody_meets_it_any_more(versions, load):
    done, canary = start(versions, "bad", "--steps", "20,100")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "requests to bad failed" in done.stdout
    assert canary["phase"] == ABORTED
    text = (versions.state_dir / "config" / "document").read_text()
    assert "split: {echo/v1: 100, echo/bad: 0}" in text
    assert "# The versions of echo." in text
    # What was under way has come back by the time that so many others have.
    seen = load.answers.total()
    versions.wait_for(lambda: load.answers.total() > seen + 20)
    load.answers.clear()
    versions.wait_for(lambda: load.answers["1"] > 50)
    assert set(load.answers) == {"1"}


def test_a_slow_version_is_given_up_though_it_does_not_fail(versions, load):
    done, canary = start(versions, "slow", "--steps", "50,100", "--max-p99", "60ms")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "more than 60 ms" in canary["cause"]
    first = canary["steps"][0]
    assert float(first["candidate"]["p99"].removesuffix("s")) >= 0.12
    assert "failed" not in first["candidate"]
    assert set(load.answers) == {"1", "slow"}


def test_a_good_version_is_promoted_though_the_control_plane_is_killed_meanwhile(versions, load):
    options = ("--from", "v1", "--to", "good", *QUICK, "--steps", "30,100")
    assert versions.json("canary", "start", "echo", *options)["phase"] == "CANARY_PHASE_RUNNING"
    versions.wait_for(lambda: load.answers["good"] > 0)
    versions.kill(versions.pid_of("services.control_plane"))
    versions.wait_for(lambda: versions.meshctl("canary", "status", "echo").returncode == 0)
    watched = versions.meshctl("canary", "status", "echo", "--watch")
    assert watched.returncode == 0, watched.stdout + watched.stderr
    canary = versions.json("canary", "status", "echo")
    assert canary["phase"] == PROMOTED
    assert [step["percent"] for step in canary["steps"]] == [30, 100]
    assert set(load.answers) == {"1", "good"}, "no request failed"
    lines = [json.loads(line) for line in (versions.state_dir / "audit.jsonl").read_text().splitlines()]
    reasons = [line["reason"] for line in lines if line["who"] == "canary echo"]
    assert reasons[-2:] == ["30 % of echo to good", "100 % of echo to good"]


def test_versions_and_metadata_are_registered(versions):
    consul = f"http://{versions.env['MESH_CONSUL_BIND']}/v1/health/service/echo"
    with urllib.request.urlopen(consul, timeout=10) as answer:
        found = [entry["Service"]["Meta"] for entry in json.load(answer)]
    assert {meta["version"]: meta["x-zone"] for meta in found} == {"1": "a", "good": "b", "bad": "b", "slow": "b"}
