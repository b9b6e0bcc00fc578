"""Other gateways of MCP, each in an environment of its own below .tools/peers, with its defaults unless said.

FastMCP       4.1.2    create_proxy; no authentication; a session at the server for each call
mcp-proxy     0.13.0   one stdio child for all clients; no authentication, no policy: a floor, and no equal
LiteLLM       1.106.2  /mcp with a master key; a session at the server for each call
ContextForge  1.0.7    /mcp with a JWT, SQLite, its rate limits off; a session at the server for each call
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.mcp_host import Way
from benchmarks.ports import free_ports

ROOT = Path(__file__).resolve().parents[1]
ECHO = Path(__file__).with_name("mcp_echo.py")

_FOLDER = ROOT / ".tools" / "peers"
_HOST = "127.0.0.1"
_START_SECONDS = 90.0
_INSTALL_SECONDS = 900.0
_PROXY = """\
import sys
from fastmcp.server import create_proxy
create_proxy(sys.argv[1]).run("http", host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", show_banner=False)
"""
_SECRET = "a secret of the benchmark, and of nothing else"


def environment(name: str, requirement: str) -> Path:
    """The interpreter of an environment with a requirement, made when it is not there yet."""
    folder = _FOLDER / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing {requirement} ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=_INSTALL_SECONDS)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        subprocess.run(install, check=True, timeout=_INSTALL_SECONDS)
        (folder / "complete").touch()
    return python


def fastmcp() -> Path:
    """The interpreter that the echo server runs in."""
    return environment("fastmcp-4.1.2", "fastmcp==4.1.2")


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """The echo server over HTTP; gives its port."""
    (port,) = free_ports(1)
    with _running([str(fastmcp()), str(ECHO), str(port)], f"http://{_HOST}:{port}/mcp"):
        yield port


@contextlib.contextmanager
def fastmcp_proxy(echo: int) -> Iterator[Way]:
    """FastMCP in front of the echo server."""
    (port,) = free_ports(1)
    command = [str(fastmcp()), "-c", _PROXY, f"http://{_HOST}:{echo}/mcp", str(port)]
    with _running(command, f"http://{_HOST}:{port}/mcp"):
        yield Way(_HOST, port, "/mcp")


@contextlib.contextmanager
def mcp_proxy(_echo: int) -> Iterator[Way]:
    """mcp-proxy with an echo server of its own over stdio."""
    (port,) = free_ports(1)
    python = environment("mcp-proxy-0.13.0", "mcp-proxy==0.13.0")
    command = [str(python), "-m", "mcp_proxy", "--port", str(port), "--pass-environment", "--"]
    with _running([*command, str(fastmcp()), str(ECHO)], f"http://{_HOST}:{port}/mcp"):
        yield Way(_HOST, port, "/mcp")


@contextlib.contextmanager
def litellm(echo: int) -> Iterator[Way]:
    """LiteLLM's gateway in front of the echo server."""
    (port,) = free_ports(1)
    python = environment("litellm-1.106.2", "litellm[proxy]==1.106.2")
    key = "sk-benchmark"
    config = {
        "general_settings": {"master_key": key},
        "mcp_servers": {"echo": {"url": f"http://{_HOST}:{echo}/mcp", "transport": "http"}},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(json.dumps(config))
        command = [str(python.with_name("litellm")), "--config", str(file), "--host", _HOST, "--port", str(port)]
        more = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with _running(command, f"http://{_HOST}:{port}/health/liveliness", more, status=200):
            yield Way(_HOST, port, "/mcp/", "echo-echo", {"x-litellm-api-key": f"Bearer {key}"})


@contextlib.contextmanager
def contextforge(echo: int) -> Iterator[Way]:
    """ContextForge in front of the echo server."""
    (port,) = free_ports(1)
    python = environment("contextforge-1.0.7", "mcp-contextforge-gateway==1.0.7")
    with tempfile.TemporaryDirectory() as folder:
        more = {
            "DATABASE_URL": f"sqlite:///{folder}/mcp.db",
            "JWT_SECRET_KEY": _SECRET,
            "AUTH_ENCRYPTION_SECRET": _SECRET,
            "PLATFORM_ADMIN_EMAIL": "admin@example.org",
            "PLATFORM_ADMIN_PASSWORD": "Benchmark-Passw0rd!",
            "RATE_LIMITING_ENABLED": "false",
            "SSRF_ALLOW_LOCALHOST": "true",
            "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
            "MCPGATEWAY_UI_ENABLED": "false",
            "LOG_LEVEL": "ERROR",
        }
        command = [str(python.with_name("mcpgateway")), "--host", _HOST, "--port", str(port)]
        with _running(command, f"http://{_HOST}:{port}/health", more, status=200, folder=folder):
            headers = {"authorization": f"Bearer {_token()}"}
            body = {"name": "echo", "url": f"http://{_HOST}:{echo}/mcp", "transport": "STREAMABLEHTTP"}
            _post(f"http://{_HOST}:{port}/gateways", body, headers)
            yield Way(_HOST, port, "/mcp/", "echo-echo", headers)


PEERS = {
    "mcp-proxy": mcp_proxy,
    "FastMCP proxy": fastmcp_proxy,
    "LiteLLM": litellm,
    "ContextForge": contextforge,
}


def _token() -> str:
    """A JSON Web Token of ContextForge's administrator."""
    now = int(time.time())
    claims = {
        "sub": "admin@example.org",
        "iat": now,
        "exp": now + 86_400,
        "iss": "mcpgateway",
        "aud": "mcpgateway-api",
        "jti": "benchmark",
        "user": {"email": "admin@example.org", "is_admin": True, "auth_provider": "cli"},
        "token_use": "session",
    }
    text = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{text}.{_encoded(hmac.digest(_SECRET.encode(), text.encode(), hashlib.sha256))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _post(url: str, body: object, headers: Mapping[str, str]) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json", **headers}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60):
        pass


@contextlib.contextmanager
def _running(
    command: list[str], url: str, more: Mapping[str, str] | None = None, *, status: int = 0, folder: str | None = None
) -> Iterator[None]:
    """A server that answers at a URL, with one status or with any."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.Popen(
        command,
        env=given | dict(more or {}),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + _START_SECONDS
        while not _answers(url, status):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{Path(command[0]).name} {' '.join(command[1:3])} does not answer at {url}")
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _answers(url: str, status: int) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            found = response.status
    except urllib.error.HTTPError as err:
        found = err.code
    except OSError:
        return False
    return status in (0, found)
