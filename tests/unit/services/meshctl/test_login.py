"""Logging in, going on and logging out, over HTTP."""

import asyncio
import json
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import aiohttp
import pytest

from mesh.errors import FailedPrecondition, InvalidInput, Unauthenticated, Unavailable
from mesh.model import Address
from services.meshctl.credentials import fresh_token, read_headers
from services.meshctl.edge import find_edge, parse_edge
from services.meshctl.login_file import Login, LoginFile
from services.meshctl.logins import log_in, log_in_by_device

PASSWORD = "correct horse battery"


def login_file(mesh_here) -> LoginFile:
    return LoginFile(mesh_here.settings, find_edge(mesh_here.settings))


def age(mesh_here) -> None:
    """Let the access token that is kept end."""
    file = login_file(mesh_here)
    file.save(replace(file.load(), expires=0.0))


def test_a_login_is_kept_for_its_owner_only_and_tells_who_one_is(mesh_here) -> None:
    mesh_here.log_in()
    kept = mesh_here.settings.state_dir / "login" / "credentials.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert mesh_here.json("whoami")["principal"] == "user:ada"
    assert mesh_here.meshctl("access-token").stdout.strip() == login_file(mesh_here).load().access_token
    assert PASSWORD not in kept.read_text()


def test_a_wrong_password_is_said_and_nothing_is_kept(mesh_here) -> None:
    done = mesh_here.meshctl("login", "--user", "ada", "--password-file", "-", input="wrong")
    assert isinstance(done.exception, Unauthenticated)
    assert login_file(mesh_here).load() is None
    assert isinstance(mesh_here.meshctl("access-token").exception, Unauthenticated)


def test_a_token_that_ends_is_renewed_and_one_that_does_not_is_shown_again(mesh_here) -> None:
    mesh_here.log_in()
    first = login_file(mesh_here).load()
    mesh_here.meshctl("access-token")
    assert mesh_here.refreshes == []
    age(mesh_here)
    mesh_here.meshctl("access-token")
    assert mesh_here.refreshes == [first.refresh_token]
    assert login_file(mesh_here).load().refresh_token != first.refresh_token


def test_many_at_once_use_a_refresh_token_once(mesh_here) -> None:
    mesh_here.log_in()
    age(mesh_here)
    edge = find_edge(mesh_here.settings)
    with ThreadPoolExecutor(5) as pool:
        tokens = list(pool.map(lambda _: asyncio.run(fresh_token(mesh_here.settings, edge)), range(5)))
    assert (len(set(tokens)), len(mesh_here.refreshes)) == (1, 1)


def test_a_login_that_was_ended_says_how_to_go_on(mesh_here) -> None:
    mesh_here.log_in()
    mesh_here.meshctl("users", "set-password", "ada", "--password-file", "-", input="another password")
    age(mesh_here)
    done = mesh_here.meshctl("whoami")
    assert isinstance(done.exception, Unauthenticated)
    assert "meshctl logout" in done.exception.fix
    assert mesh_here.meshctl("logout").exit_code == 0


def test_logging_out_ends_the_login_at_the_edge(mesh_here) -> None:
    mesh_here.log_in()
    kept = login_file(mesh_here).load()
    assert "ada is logged out" in mesh_here.meshctl("logout").stdout
    assert login_file(mesh_here).load() is None
    login_file(mesh_here).save(replace(kept, expires=0.0))
    assert isinstance(mesh_here.meshctl("access-token").exception, Unauthenticated)


def test_logging_in_again_ends_the_login_before(mesh_here) -> None:
    mesh_here.log_in()
    kept = login_file(mesh_here).load()
    mesh_here.meshctl("login", "--user", "ada", "--password-file", "-", input=PASSWORD)
    login_file(mesh_here).save(replace(kept, expires=0.0))
    assert isinstance(mesh_here.meshctl("access-token").exception, Unauthenticated)


async def test_a_login_at_an_edge_that_is_away_is_forgotten_and_that_is_no_success(mesh_here) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    file = LoginFile(mesh_here.settings, parse_edge(url))
    async with file.held():
        file.save(Login("ada", "a.b.c", "rt_1", 0.0))
    done = await asyncio.to_thread(mesh_here.meshctl, "logout", "--url", url)
    assert isinstance(done.exception, Unavailable)
    assert "set-password ada" in done.exception.fix
    assert file.load() is None


def test_each_edge_has_a_login_of_its_own(mesh_here) -> None:
    mesh_here.log_in()
    url = f"http://{mesh_here.settings.gateway_bind}"
    assert isinstance(mesh_here.meshctl("access-token", "--url", url).exception, Unauthenticated)
    done = mesh_here.meshctl("login", "--url", url, "--user", "ada", "--password-file", "-", input=PASSWORD)
    assert done.exit_code == 0
    kept = mesh_here.settings.state_dir / "config" / "agentmesh" / "credentials.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert list(json.loads(kept.read_text())) == [url]
    by_name = mesh_here.meshctl("access-token", env={"MESH_EDGE_URL": url}).stdout
    assert by_name not in ("", mesh_here.meshctl("access-token").stdout)
    mesh_here.meshctl("logout", "--url", url)
    assert not kept.exists()
    assert login_file(mesh_here).load() is not None


def test_a_file_that_is_damaged_is_named(mesh_here) -> None:
    mesh_here.log_in()
    kept = mesh_here.settings.state_dir / "login" / "credentials.json"
    for content in ("{", "[]", '{"own": {"user": "ada"}}', '{"own": 1}'):
        kept.write_text(content)
        done = mesh_here.meshctl("whoami")
        assert isinstance(done.exception, FailedPrecondition), content
        assert str(kept) in str(done.exception)


def test_the_environment_goes_before_the_login(mesh_here, monkeypatch) -> None:
    mesh_here.log_in()
    edge = find_edge(mesh_here.settings)

    def headers():
        return asyncio.run(read_headers(mesh_here.settings, edge))

    assert headers()[0][1].startswith("Bearer ey")
    monkeypatch.setenv("MESH_TOKEN", " a.b.c\n")
    assert headers() == (("authorization", "Bearer a.b.c"),)
    monkeypatch.setenv("MESH_API_KEY", "am_1_x")
    assert headers() == (("x-api-key", "am_1_x"),)
    assert mesh_here.json("whoami")["principal"] == "key:am_1_x"
    for text in ("am_é", "am_1\nx-mesh-user: ada"):
        monkeypatch.setenv("MESH_API_KEY", text)
        with pytest.raises(InvalidInput, match="MESH_API_KEY"):
            headers()


async def test_a_device_is_logged_in_on_the_page(mesh_here) -> None:
    await mesh_here.stores.users.create("ada", PASSWORD, (), now=0.0)
    told: list[str] = []
    edge = find_edge(mesh_here.settings)

    async def approve(seconds: float) -> None:
        page, code = told
        form = {"user_code": code, "user": "ada", "password": PASSWORD}
        async with aiohttp.ClientSession() as session, session.post(page, data=form) as response:
            assert response.status == 200

    made = await log_in_by_device(edge, lambda *words: told.extend(words), pause=approve)
    assert (made.user, told[0]) == ("ada", f"{edge.url}/oauth2/device")


async def test_a_device_asks_more_slowly_when_it_is_told_to(mesh_here) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await log_in_by_device(find_edge(mesh_here.settings), lambda *_: None, pause=pause)
    assert pauses == [5.0, 5.0, 10.0, 15.0]


@pytest.fixture
def stranger():
    """An HTTP server that is no edge: it sends on what comes to /v1, and answers {} to all else."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            if self.path.startswith("/v1"):
                self.send_response(307)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield parse_edge(f"http://127.0.0.1:{server.server_port}"), seen
        server.shutdown()
        thread.join(10)


async def test_a_password_is_sent_on_to_nobody(stranger) -> None:
    edge, seen = stranger
    with pytest.raises(Unavailable, match="307"):
        await log_in(edge, "ada", PASSWORD)
    assert seen == ["/v1/auth/login"]


async def test_what_is_no_edge_is_said_to_be_none(stranger) -> None:
    with pytest.raises(FailedPrecondition, match="is no edge"):
        await log_in_by_device(stranger[0], lambda *_: None)


@pytest.mark.parametrize(
    ("url", "address", "has_tls"),
    [
        ("https://mesh.example", Address("mesh.example", 443), True),
        ("https://mesh.example:8443/", Address("mesh.example", 8443), True),
        ("https://[2001:db8::1]:8443", Address("2001:db8::1", 8443), True),
        ("http://127.0.0.1:8080", Address("127.0.0.1", 8080), False),
        ("http://[::1]:8080", Address("::1", 8080), False),
        ("http://localhost", Address("localhost", 80), False),
    ],
)
def test_an_edge_is_named_by_its_url(url, address, has_tls) -> None:
    edge = parse_edge(url)
    assert (edge.address, edge.has_tls, edge.is_own) == (address, has_tls, False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mesh.example",
        "ftp://mesh.example",
        "https://",
        "https://mesh.example/path",
        "https://mesh.example?a=1",
        "https://ada@mesh.example",
        "https://mesh.example:99999",
        "https://[::1",
        "http://mesh.example",
        "http://10.0.0.1",
    ],
)
def test_a_url_that_is_none_or_would_show_the_password_is_refused(url) -> None:
    with pytest.raises(InvalidInput) as found:
        parse_edge(url)
    assert found.value.field == "url"


def test_certificates_that_cannot_be_read_are_named(tmp_path) -> None:
    missing = tmp_path / "none.pem"
    (tmp_path / "bad.pem").write_text("none")
    for path in (missing, tmp_path / "bad.pem"):
        with pytest.raises(FailedPrecondition) as found:
            parse_edge("https://mesh.example", path).tls_context()
        assert found.value.field == str(path)
