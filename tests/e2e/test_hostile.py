"""What comes to an edge that nobody has asked for: it is refused, nothing crashes, and memory stays flat."""

import asyncio
import contextlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

MESH = """\
services:
  utilities:
    kind: mcp
    command: [python, -m, services.utilities]
  von-neumann:
    kind: agent
    command: [python, -m, services.von_neumann]
"""
DOCUMENT = """\
edge:
  limits: {per-client: {per: [client], requests: 100000}}
"""
EXAMPLES = 12
TIMEOUT = aiohttp.ClientTimeout(total=10)


@pytest.fixture(scope="module")
def mesh(start_mesh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "document.yaml").write_text(DOCUMENT)
    with start_mesh(folder / "mesh.yaml") as running:
        assert running.meshctl("apply", "--yes", str(folder / "document.yaml")).returncode == 0
        yield running


@pytest.fixture(scope="module")
def pids(mesh):
    """The processes of the edge: its Envoy and its application."""
    return [mesh.pid_of("envoy", "gateway-1"), mesh.pid_of("services.gateway")]


@pytest.fixture(scope="module")
def schema(mesh):
    return schemathesis.openapi.from_url(f"http://{mesh.gateway}/openapi.json")


def memory(pid: int) -> int:
    """Resident memory in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 // 1024


def test_nothing_that_fits_or_misses_the_description_makes_an_error_of_the_server(mesh, schema, pids):
    """Each operation with examples that schemathesis makes of its schema, good ones and bad ones."""
    services = {"server": "utilities", "agent": "von-neumann"}
    failures: list[str] = []
    tried = 0

    def try_all(operation: Any) -> None:
        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
        def call(case: Any) -> None:
            nonlocal tried
            for name, service in services.items():
                if name in (case.path_parameters or {}):
                    case.path_parameters[name] = service
            response = case.call(timeout=10)
            tried += 1
            # 501: a server that has not what its protocol leaves to it.
            if response.status_code >= 500 and response.status_code != 501:
                failures.append(f"{operation.label}: {response.status_code} {response.text[:300]}")

        call()

    for found in schema.get_all_operations():
        operation = found.ok()
        # Streams without an end.
        if ":watch" not in operation.path:
            try_all(operation)
    assert tried > 150
    assert failures == []
    assert [mesh.pid_of("envoy", "gateway-1"), mesh.pid_of("services.gateway")] == pids


async def raw(mesh: Any, data: bytes) -> bytes:
    """What comes back for bytes, until the edge closes or says nothing more."""
    host, _, port = mesh.gateway.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        with contextlib.suppress(TimeoutError, ConnectionError):
            return await asyncio.wait_for(reader.read(65536), 1)
        return b""
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


BROKEN = {
    "no request": b"\x00\x01\x02\xff\xfe garbage\r\n\r\n",
    "a bad version": b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two lengths": b"POST /graphql HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde",
    "length and chunks": (
        b"POST /graphql HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /x"
    ),
    "a negative length": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    "a bad chunk": b"POST /graphql HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nhost: a\r\n" + b"".join(b"x%d: a\r\n" % it for it in range(300)) + b"\r\n",
    "a huge path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nhost: a\r\n\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
async def test_broken_http_is_refused(mesh, what):
    status = status_of(await raw(mesh, BROKEN[what]))
    assert status == 0 or 400 <= status < 500, what


PATHS = (
    "/v1/servers/utilities/../../../etc/passwd",
    "/v1/servers/..%2f..%2fetc/tools",
    "/v1/servers/%2e%2e/tools",
    "/v1//servers///utilities/tools/../../..",
    "/v1/servers/utilities%00/tools",
    "/%67raphql/../../openapi.json/%2e%2e/x",
    "/docs/../../../../etc/passwd",
    "/docs/%2e%2e/%2e%2e/app.py",
    "/docs/..%5c..%5capp.py",
    "/.git/config",
    "/v1/servers/utilities/tools/%F0%28%8C%28:invoke",
    "/v1/servers/" + "a" * 500 + "/tools",
)


@pytest.mark.parametrize("path", PATHS)
async def test_tricks_with_paths_lead_nowhere(mesh, path):
    answer = await raw(mesh, f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    assert status_of(answer) in (200, 400, 403, 404, 405), answer[:200]
    assert b"root:" not in answer
    assert b"import " not in answer


BODIES = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"[" * 100_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"rate": NaN}',
    b'{"x": "\\ud800"}',
    b"\xff\xfe\x00\x01",
    b'{"a": 1e999999}',
    b'{"value": 3, "value": 4}',
)


@pytest.mark.parametrize("path", ["/v1/servers/utilities/tools/convert_units:invoke", "/graphql", "/v1/auth/login"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:12]))
async def test_json_that_is_none_is_the_clients_mistake(mesh, path, body):
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        async with session.post(f"http://{mesh.gateway}{path}", data=body, headers=headers) as response:
            text = await response.text()
            assert response.status < 500, text
            assert "Traceback" not in text


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2, RFC 9113, section 4.1."""
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


async def test_random_frames_end_a_connection_and_nothing_else(mesh, pids):
    chance = random.Random(7)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    for _ in range(30):
        frames = b"".join(
            frame(
                chance.randrange(12),
                chance.randrange(256),
                chance.choice((0, 1, 3, 5)),
                chance.randbytes(chance.randrange(64)),
            )
            for _ in range(chance.randrange(1, 8))
        )
        await asyncio.wait_for(raw(mesh, preface + frames + frame(7, 0, 0, b"\0" * 8)), 5)
    assert mesh.is_ready()
    assert [mesh.pid_of("envoy", "gateway-1"), mesh.pid_of("services.gateway")] == pids


GRPC_BODIES = (
    b"\x00\x00\x00\x00\x05abc",
    b"\x01\x00\x00\x00\x03abc",
    b"\x00\xff\xff\xff\xffabc",
    b"\x07" * 40,
    b"",
    b"\x00\x00\x00\x00\x04\x0a\xff\xff\xff",
)


@pytest.mark.parametrize("body", GRPC_BODIES, ids=repr)
async def test_broken_messages_of_grpc_get_a_status(mesh, body):
    headers = {
        "content-type": "application/grpc-web+proto",
        "x-grpc-web": "1",
        "x-mesh-service": "utilities",
    }
    path = "/agentmesh.mcp.v1.McpBridgeService/CallTool"
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        async with session.post(f"http://{mesh.gateway}{path}", data=body, headers=headers) as response:
            assert response.status == 200
            content = await response.read()
    assert response.headers.get("grpc-status", "") not in ("", "0") or b"grpc-status:" in content.replace(b" ", b"")


@settings(max_examples=150, database=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60))
def test_any_path_has_an_answer_that_is_no_error_of_the_server(mesh, text):
    answer = asyncio.run(raw(mesh, f"GET /{text} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode()))
    assert 200 <= status_of(answer) < 500, answer[:200]


async def test_memory_stays_flat_under_ten_thousand_refusals(mesh, pids):
    async def flood(session: aiohttp.ClientSession, count: int) -> None:
        for number in range(count):
            headers = {"authorization": f"Bearer {number}.{number}.{number}", "x-correlation-id": f"{number}"}
            url = f"http://{mesh.gateway}/v1/servers/utilities/tools/x{number}:invoke"
            async with session.post(url, data=b"{", headers=headers) as response:
                assert 400 <= response.status < 500
                await response.read()

    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        await asyncio.gather(*(flood(session, 250) for _ in range(8)))
        before = [memory(pid) for pid in pids]
        await asyncio.gather(*(flood(session, 1000) for _ in range(8)))
    grown = [after - first for after, first in zip(map(memory, pids), before, strict=True)]
    assert max(grown) < 15, grown
    assert json.loads(mesh.meshctl("status", "--output", "json").stdout)["ready"]
