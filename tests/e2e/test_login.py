"""A person at the edge: through real Envoys, on TLS, in a mesh in which nobody is anybody without a credential."""

import asyncio
import json
import re
import ssl
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

ROOT = Path(__file__).resolve().parents[2]
MESH = """\
services:
  utilities:
    kind: mcp
    command: [python, -m, services.utilities]
"""
DOCUMENT = "access: {bindings: {everybody: null}}\n"
PASSWORD = "correct horse battery"
TIMEOUT = aiohttp.ClientTimeout(total=15)


@pytest.fixture(scope="module")
def mesh_of_users(start_mesh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("login")
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "document.yaml").write_text(DOCUMENT)
    (folder / "password").write_text(PASSWORD)
    with start_mesh(folder / "mesh.yaml", XDG_CONFIG_HOME=str(folder / "config")) as mesh:
        for words in (
            ("apply", "--yes", str(folder / "document.yaml")),
            ("users", "create", "ada", "--role", "caller", "--password-file", str(folder / "password")),
            ("login", "--user", "ada", "--password-file", str(folder / "password")),
        ):
            done = mesh.meshctl(*words)
            assert done.returncode == 0, done.stderr
        yield mesh


@pytest.fixture
async def browser(mesh_of_users):
    authority = mesh_of_users.state_dir / "edge" / "ca.pem"
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=authority))
    url = f"https://{mesh_of_users.env['MESH_GATEWAY_TLS_BIND']}"
    async with aiohttp.ClientSession(url, connector=connector, timeout=TIMEOUT) as session:
        yield session


async def test_a_device_is_logged_in_by_a_browser(mesh_of_users, browser) -> None:
    mesh = mesh_of_users
    url = f"https://{mesh.env['MESH_GATEWAY_TLS_BIND']}"
    env = mesh.env | {"MESH_EDGE_URL": url, "MESH_EDGE_CA_FILE": str(mesh.state_dir / "edge" / "ca.pem")}
    words = (sys.executable, "-m", "services.meshctl.main", "login", "--device")
    device = await asyncio.create_subprocess_exec(
        *words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    try:
        async with asyncio.timeout(40):
            said = (await device.stderr.readline()).decode()
            page, code = re.fullmatch(r"Open (\S+) in any browser, .* the code (\S+)\. Waiting \.\.\.\n", said).groups()
            assert page == f"{url}/oauth2/device"
            async with browser.get(page) as response:
                assert response.headers.getall("content-security-policy")[0].startswith("default-src 'none'")
                # That of the edge for all other pages would have browsers say "Origin: null".
                assert response.headers.getall("referrer-policy") == ["same-origin"]
            form = {"user_code": code, "user": "ada", "password": PASSWORD}
            async with browser.post(page, data=form, headers={"origin": "https://evil.example"}) as response:
                assert response.status == 403
            async with browser.post(page, data=form, headers={"origin": url}) as response:
                assert response.status == 200
            out, err = await device.communicate()
    finally:
        if device.returncode is None:
            device.kill()
            await device.wait()
    assert (device.returncode, out, err) == (0, b"logged in as ada\n", b"")


async def test_errors_of_oauth_pass_the_edge_as_they_are(mesh_of_users, browser) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "rt_0"}
    async with browser.post("/oauth2/token", data=form) as response:
        assert (response.status, response.content_type) == (400, "application/json")
        assert (await response.json())["error"] == "invalid_grant"


async def test_processes_that_renew_side_by_side_do_not_end_the_login(mesh_of_users) -> None:
    kept = mesh_of_users.state_dir / "login" / "credentials.json"
    facts = json.loads(kept.read_text())
    facts["own"]["expires"] = 0
    kept.write_text(json.dumps(facts))
    done = await asyncio.gather(*(asyncio.to_thread(mesh_of_users.meshctl, "access-token") for _ in range(3)))
    assert [process.returncode for process in done] == [0, 0, 0], [process.stderr for process in done]
    assert len({process.stdout for process in done}) == 1
    assert json.loads(kept.read_text())["own"]["refresh_token"] != facts["own"]["refresh_token"]
    assert mesh_of_users.json("whoami")["principal"] == "user:ada"


async def test_a_token_counts_no_more_after_logging_out(mesh_of_users, browser) -> None:
    token = mesh_of_users.meshctl("access-token").stdout.strip()
    headers = {"authorization": f"Bearer {token}"}
    async with browser.get("/v1/auth/whoami", headers=headers) as response:
        assert response.status == 200
    assert mesh_of_users.meshctl("logout").returncode == 0
    async with asyncio.timeout(5):
        while True:
            async with browser.get("/v1/auth/whoami", headers=headers) as response:
                if response.status == 401:
                    break
    assert mesh_of_users.meshctl("whoami").returncode == 1
