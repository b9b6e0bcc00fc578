"""A real browser at the edge: pages of the edge itself, of a site that it allows, and of one that it does not."""

import asyncio
import base64
import hashlib
import http.server
import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import tarfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.asyncio.client as websockets

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as mcp
from benchmarks.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
# https://github.com/Sparticuz/chromium, MIT; Chromium itself BSD-3-Clause. It carries the libraries that it needs.
PACKAGE, VERSION = "@sparticuz/chromium", "153.0.0"
SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
MESH = """\
services:
  financial:
    kind: mcp
    command: [python, -m, services.financial]
"""
DOCUMENT = """\
access:
  roles:
    page: {{allow: [{{services: [gateway], methods: [/docs*, /openapi.json]}}]}}
  bindings:
    everybody: {{anonymous: true, roles: [page]}}
edge:
  cors: {{origins: ["{origin}"]}}
"""
UNPACK = """
const {brotliDecompressSync} = require("node:zlib"), {readFileSync, writeFileSync} = require("node:fs");
writeFileSync(process.argv[2], brotliDecompressSync(readFileSync(process.argv[1])));
"""
TIMEOUT = 30.0


def fetch_chromium() -> Path:
    """The folder with the browser; fetched and unpacked once."""
    folder = ROOT / ".tools" / f"chromium-{VERSION}"
    if (folder / "chromium").exists():
        return folder
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("a browser comes with npm, which is not on this machine")
    building = ROOT / ".tools" / f"chromium-{VERSION}.{os.getpid()}"
    building.mkdir(parents=True)
    try:
        packed = subprocess.run(
            ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=building, capture_output=True, timeout=180
        )
        if packed.returncode:
            pytest.skip("a browser comes with npm, which cannot be reached")
        archive = next(building.glob("*.tgz"))
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
        with tarfile.open(archive) as whole:
            whole.extractall(building, filter="data")
        for source, target in (("chromium.br", "chromium"), ("al2023.tar.br", "libraries.tar")):
            command = ["node", "-e", UNPACK, str(building / "package" / "bin" / source), str(building / target)]
            subprocess.run(command, check=True, timeout=120)
        with tarfile.open(building / "libraries.tar") as libraries:
            libraries.extractall(building, filter="data")
        (building / "chromium").chmod(0o755)
        for left in (archive, building / "libraries.tar"):
            left.unlink()
        shutil.rmtree(building / "package")
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


class Page:
    """One page, by the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/"""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.complaints: list[str] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        identifier = next(self._ids)
        await self._socket.send(json.dumps({"id": identifier, "method": method, "params": params}))
        while True:
            message = json.loads(await self._socket.recv())
            self._note(message)
            if message.get("id") == identifier:
                assert "error" not in message, message
                return message["result"]

    async def open(self, url: str) -> None:
        for domain in ("Page", "Log", "Runtime", "Network"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=url)
        while await self.run("document.readyState") != "complete" or await self.run("location.href") != url:
            await asyncio.sleep(0.02)  # a page that loads says nothing that could be waited for here

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        found = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))


class Chromium:
    """A browser without a screen; every page is new."""

    def __init__(self, port: int) -> None:
        self._port = port

    def on(self, url: str, *scripts: str) -> tuple[list[Any], list[str]]:
        """What scripts give on a page, and what the browser complains of."""

        async def visit() -> tuple[list[Any], list[str]]:
            async with asyncio.timeout(TIMEOUT):
                browser = await self._browser()
                async with websockets.connect(browser, max_size=None) as socket:
                    made = await Page(socket).send("Target.createTarget", url="about:blank")
                where = browser.partition("/devtools/")[0] + f"/devtools/page/{made['targetId']}"
                async with websockets.connect(where, max_size=None) as socket:
                    page = Page(socket)
                    await page.open(url)
                    return [await page.run(script) for script in scripts], page.complaints

        return asyncio.run(visit())

    async def _browser(self) -> str:
        while True:
            try:
                return await asyncio.to_thread(self._where)
            except (OSError, ValueError):
                await asyncio.sleep(0.05)  # it is being started

    def _where(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/json/version", timeout=5) as answer:
            return str(json.load(answer)["webSocketDebuggerUrl"])


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    folder = fetch_chromium()
    (port,) = free_ports(1)
    command = [
        str(folder / "chromium"),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-zygote",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--ignore-certificate-errors",
        f"--remote-debugging-port={port}",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        "about:blank",
    ]
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder / "lib"), "HOME": str(tmp_path_factory.mktemp("home"))}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield Chromium(port)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>a site</title>")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def sites() -> Iterator[list[str]]:
    """Two sites of others."""
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def edge(start_mesh: Any, tmp_path_factory: pytest.TempPathFactory, sites: list[str]) -> Iterator[tuple[str, str]]:
    """The URL of the edge, and an access token."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "document.yaml").write_text(DOCUMENT.format(origin=sites[0]))
    with start_mesh(folder / "mesh.yaml") as mesh:
        applied = mesh.meshctl("apply", "--yes", str(folder / "document.yaml"))
        assert applied.returncode == 0, applied.stderr
        key = mesh.json("keys", "create", "--role", "caller")
        url = f"https://{mesh.env['MESH_GATEWAY_TLS_BIND']}"
        form = {"grant_type": "client_credentials", "client_id": key["id"], "client_secret": key["secret"]}
        trust = ssl.create_default_context(cadata=(mesh.state_dir / "edge" / "ca.pem").read_text())
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"{url}/oauth2/token", data, timeout=20, context=trust) as answer:
            yield url, json.load(answer)["access_token"]


SHOWN = """
new Promise(done => {
  const look = () => document.body.innerText.includes("tools/{name}:invoke") ? done(true) : setTimeout(look, 20);
  look();
})"""


def rest(url: str, token: str) -> str:
    return f"""
    fetch("{url}/v1/servers/financial/tools/npv:invoke", {{
      method: "POST",
      headers: {{"content-type": "application/json", "authorization": "Bearer {token}"}},
      body: JSON.stringify({{rate: 0.1, cash_flows: [-1000, 400, 400, 400]}}),
    }}).then(async answer => ({{status: answer.status, id: answer.headers.get("x-correlation-id"),
                               body: await answer.json()}}), error => ({{error: error.name}}))"""


def grpc_web(url: str, token: str) -> str:
    message = mcp.ListToolsRequest().SerializeToString()
    body = base64.b64encode(b"\0" + len(message).to_bytes(4) + message).decode()
    return f"""
    fetch("{url}/agentmesh.mcp.v1.McpBridgeService/ListTools", {{
      method: "POST",
      headers: {{"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "x-mesh-service": "financial",
                "authorization": "Bearer {token}"}},
      body: Uint8Array.from(atob("{body}"), c => c.charCodeAt(0)),
    }}).then(async answer => Array.from(new Uint8Array(await answer.arrayBuffer())), error => error.name)"""


def first_event(url: str, token: str) -> str:
    """The snapshot that one gets who comes back with an id that nobody knows."""
    return f"""
    new Promise(done => {{
      const source = new EventSource("{url}/events?last_event_id=another-1&access_token={token}");
      source.addEventListener("snapshot", event => {{ source.close(); done(JSON.parse(event.data)); }});
      source.onerror = () => {{ source.close(); done({{error: "no events"}}); }};
    }})"""


def first_message(url: str, token: str) -> str:
    return f"""
    new Promise(done => {{
      const socket = new WebSocket("{url.replace("http", "ws", 1)}/ws?access_token={token}");
      socket.onmessage = event => {{ socket.close(); done(JSON.parse(event.data)); }};
      socket.onclose = event => done({{code: event.code}});
    }})"""


def test_the_page_of_the_edge_is_shown_without_a_complaint(chromium, edge):
    url, _ = edge
    found, complaints = chromium.on(f"{url}/docs", "document.title", SHOWN)
    assert found == ["agentmesh API", True]
    assert complaints == []


def test_a_page_of_the_edge_calls_rest_and_grpc_web_and_hears_events(chromium, edge):
    url, token = edge
    scripts = (make(url, token) for make in (rest, grpc_web, first_event, first_message))
    (called, framed, snapshot, message), _ = chromium.on(f"{url}/docs", *scripts)
    assert called["status"] == 200
    assert called["body"]["structuredContent"]["npv"] == pytest.approx(-5.259203606311132)
    content = bytes(framed)
    length = int.from_bytes(content[1:5])
    assert any(tool.name == "npv" for tool in mcp.ListToolsResponse.FromString(content[5 : 5 + length]).tools)
    assert b"grpc-status:0" in content[5 + length :]
    assert "financial" in json.dumps(snapshot)
    assert message["type"] == "ready"


def test_a_page_of_an_allowed_site_calls_and_reads_what_is_exposed(chromium, edge, sites):
    (called, framed, snapshot, message), _ = chromium.on(
        f"{sites[0]}/", *(make(*edge) for make in (rest, grpc_web, first_event, first_message))
    )
    assert (called["status"], bool(called["id"])) == (200, True)
    assert bytes(framed)
    assert "financial" in json.dumps(snapshot)
    assert message["type"] == "ready"


def test_a_page_of_any_other_site_learns_nothing(chromium, edge, sites):
    found, _ = chromium.on(f"{sites[1]}/", *(make(*edge) for make in (rest, grpc_web, first_event, first_message)))
    assert found == [{"error": "TypeError"}, "TypeError", {"error": "no events"}, {"code": 1008}]
