"""Answers that the edge keeps, and limits that it counts, in the Valkey that comes along: through real Envoys."""

import contextlib
import http.client
import json
import os
import signal
from dataclasses import dataclass

import pytest

MESH = """\
services:
  financial:
    kind: mcp
    command: [python, -m, services.financial]
"""
DOCUMENT = """\
edge:
  limits:
    closed: {scope: global, per: [principal], methods: [agentmesh.mcp.v1.McpBridgeService/GetServer], requests: 1000, \
window: 60s, on_failure: closed}
  cache:
    tools: {methods: [agentmesh.mcp.v1.McpBridgeService/ListTools], ttl: 1h}
"""
TOOLS, SERVER = "/v1/servers/financial/tools", "/v1/servers/financial"


@pytest.fixture(scope="module")
def mesh(start_mesh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "document.yaml").write_text(DOCUMENT)
    with start_mesh(folder / "mesh.yaml") as mesh:
        applied = mesh.meshctl("apply", "--yes", str(folder / "document.yaml"))
        assert applied.returncode == 0, applied.stderr
        yield mesh


@dataclass
class Answer:
    status_code: int
    headers: http.client.HTTPMessage
    content: bytes

    def json(self):
        return json.loads(self.content)


class Client:
    def __init__(self, connection):
        self._connection = connection

    def request(self, method, path, headers):
        self._connection.request(method, path, headers=headers)
        answer = self._connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())

    def get(self, path, headers=None):
        return self.request("GET", path, headers or {})

    def delete(self, path):
        return self.request("DELETE", path, {})


@pytest.fixture
def client(mesh):
    with contextlib.closing(http.client.HTTPConnection(mesh.gateway, timeout=15)) as connection:
        yield Client(connection)


def status_of(client, **headers):
    return client.get(TOOLS, headers=headers).headers["cache-status"]


def until_kept(mesh, client, **headers):
    mesh.wait_for(lambda: status_of(client, **headers).startswith("agentmesh; hit"))


def test_a_kept_answer_is_the_same_and_is_not_sent_to_who_has_it(mesh, client):
    first = client.get(TOOLS)
    until_kept(mesh, client)
    kept = client.get(TOOLS)
    assert kept.status_code == 200
    assert kept.json() == first.json()
    assert kept.headers["cache-control"] == "private, max-age=3600"
    unchanged = client.get(TOOLS, headers={"if-none-match": kept.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_another_principal_has_an_answer_of_its_own(mesh, client):
    until_kept(mesh, client)
    key = mesh.json("keys", "create", "--role", "caller")["secret"]
    assert status_of(client, **{"x-api-key": key}).startswith("agentmesh; fwd=uri-miss")
    until_kept(mesh, client, **{"x-api-key": key})


def test_a_purge_ends_what_is_kept(mesh, client):
    until_kept(mesh, client)
    assert client.delete("/v1/cache/financial").status_code == 204
    assert status_of(client).startswith("agentmesh; fwd=uri-miss")


def test_while_valkey_hangs_closed_limits_refuse_and_everything_else_goes_on(mesh, client):
    assert client.get(SERVER).status_code == 200
    with held(mesh.pid_of("valkey-server")):
        mesh.wait_for(lambda: client.get(SERVER).status_code == 429)
        refused = client.get(SERVER)
        assert refused.status_code == 429
        assert refused.headers["x-mesh-reason"] == "LIMITS_AWAY"
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["status"] == 429
        assert client.get(TOOLS).status_code == 200
    mesh.wait_for(lambda: client.get(SERVER).status_code == 200)
    until_kept(mesh, client)


def test_a_valkey_that_is_killed_comes_back(mesh, client):
    killed = mesh.pid_of("valkey-server")
    os.kill(killed, signal.SIGKILL)
    until_kept(mesh, client)
    assert mesh.pid_of("valkey-server") != killed
    assert client.get(SERVER).status_code == 200


@contextlib.contextmanager
def held(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
