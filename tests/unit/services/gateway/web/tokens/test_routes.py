"""Tokens, logins and what is public, over HTTP."""

import base64

import pytest

PASSWORD = "correct horse battery"
FORM = "application/x-www-form-urlencoded"

pytestmark = pytest.mark.asyncio(loop_scope="session")


def basic(text: bytes) -> dict[str, str]:
    # The guard hands the header authorization of clients on under this name.
    return {"x-client-authorization": f"Basic {base64.b64encode(text).decode()}"}


async def token(client, headers=None, **form: str) -> tuple[int, dict, dict]:
    async with client.post("/oauth2/token", data=form, headers=headers or {}) as response:
        assert response.headers["cache-control"] == "no-store"
        assert response.content_type == "application/json"
        return response.status, await response.json(), dict(response.headers)


@pytest.mark.parametrize(
    ("headers", "form"),
    [
        # RFC 6749, section 2.3.1: id and secret are encoded as in a form.
        (basic(b"am_1:se%3Acret"), {}),
        (basic(b"am_1:se:cret"), {}),
        ({}, {"client_id": "am_1", "client_secret": "se:cret"}),
    ],
)
async def test_a_client_gets_a_token_and_no_refresh_token(client, control_plane, headers, form) -> None:
    headers = headers | {"x-envoy-external-address": "192.0.2.7"}
    status, facts, _ = await token(client, headers, grant_type="client_credentials", **form)
    assert (status, facts) == (200, {"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 600})
    assert control_plane.asked[0].client_address == "192.0.2.7"
    assert control_plane.timeouts == [10.0]


@pytest.mark.parametrize(
    ("headers", "form", "status", "code"),
    [
        ({}, {}, 400, "invalid_request"),
        ({}, {"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({}, {"grant_type": '"\\\u00e9\n'}, 400, "unsupported_grant_type"),
        ({}, {"grant_type": "refresh_token"}, 400, "invalid_request"),
        ({}, {"grant_type": "refresh_token", "refresh_token": "rt_0"}, 400, "invalid_grant"),
        ({}, {"grant_type": "client_credentials"}, 401, "invalid_client"),
        (basic(b"am_1:wrong"), {"grant_type": "client_credentials"}, 401, "invalid_client"),
        (basic(b"\xff\xfe"), {"grant_type": "client_credentials"}, 401, "invalid_client"),
        ({"x-client-authorization": "Basic \u00e9"}, {"grant_type": "client_credentials"}, 401, "invalid_client"),
        (
            basic(b"am_1:se:cret"),
            {"grant_type": "client_credentials", "client_secret": "se:cret"},
            400,
            "invalid_request",
        ),
        ({}, {"grant_type": "urn:ietf:params:oauth:grant-type:device_code"}, 400, "invalid_request"),
        (
            {},
            {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": "x", "client_id": "cli"},
            400,
            "invalid_grant",
        ),
    ],
)
async def test_errors_have_the_form_of_oauth(client, headers, form, status, code) -> None:
    if not form:
        headers = {"content-type": FORM}
    found, facts, answered = await token(client, headers, **form)
    assert (found, facts["error"]) == (status, code)
    assert facts.keys() == {"error", "error_description"}
    # RFC 6749, section 5.2
    assert all(" " <= char <= "~" and char not in '"\\' for char in facts["error_description"])
    assert ("WWW-Authenticate" in answered) == (status == 401)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        (FORM, b"grant_type=refresh_token&grant_type=refresh_token"),
        (FORM, b"\xff"),
        (FORM, b"&".join(b"a%d=1" % number for number in range(30))),
        (FORM, b"a=" + b"x" * (16 << 10)),
    ],
)
async def test_bodies_that_are_no_short_form_are_refused(client, control_plane, content_type, body) -> None:
    async with client.post("/oauth2/token", data=body, headers={"content-type": content_type}) as response:
        assert (response.status, (await response.json())["error"]) == (400, "invalid_request")
    assert control_plane.asked == []


async def test_a_refresh_token_gives_the_next_one(client, control_plane) -> None:
    async with client.post("/v1/auth/login", json={"user": "ada", "password": PASSWORD}) as response:
        first = await response.json()
    status, second, _ = await token(client, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert (status, control_plane.good) == (200, {second["refresh_token"]})


async def test_after_too_many_attempts_it_is_said_to_wait(client, control_plane) -> None:
    control_plane.is_tired = True
    status, facts, headers = await token(client, grant_type="refresh_token", refresh_token="rt_0")
    assert (status, facts["error"], "Try again in 8 s." in facts["error_description"]) == (
        429,
        "temporarily_unavailable",
        True,
    )
    assert int(headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["/oauth2/token", "/v1/auth/login"])
async def test_without_the_control_plane_it_is_a_problem_and_no_refusal(client, control_plane, path) -> None:
    control_plane.is_away = True
    what = {
        "/oauth2/token": {"data": {"grant_type": "refresh_token", "refresh_token": "rt_0"}},
        "/v1/auth/login": {"json": {"user": "ada", "password": PASSWORD}},
    }
    async with client.post(path, **what[path]) as response:
        assert (response.status, response.content_type) == (503, "application/problem+json")


async def test_a_revoked_token_is_passed_on_and_an_unknown_one_no_error(client, control_plane) -> None:
    async with client.post("/oauth2/revoke", data={"token": "rt_9"}) as response:
        assert response.status == 200
    assert control_plane.revoked == ["rt_9"]
    async with client.post("/oauth2/revoke", data={"token": ""}) as response:
        assert (response.status, (await response.json())["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"user": "ada", "password": "wrong"}', 401),
        (b'{"user": "ada"}', 400),
        (b'{"user": 1, "password": "x"}', 400),
        (b'{"user": "\\ud800", "password": "x"}', 400),
        (b'{"user": "ada", "password": "\\udfff"}', 400),
        (b"[]", 400),
        (b"[" * 10_000, 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'"' + b"x" * (16 << 10) + b'"', 400),
    ],
)
async def test_a_login_that_does_not_hold_is_a_problem(client, body, status) -> None:
    async with client.post("/v1/auth/login", data=body) as response:
        facts = await response.json()
        assert (response.status, response.content_type) == (status, "application/problem+json")
    assert (facts["status"], bool(facts["detail"])) == (status, True)


async def test_whoami_tells_what_the_guard_has_written(client) -> None:
    payload = base64.urlsafe_b64encode(b'{"kind": "user", "name": "ada", "roles": ["caller"]}').rstrip(b"=").decode()
    async with client.get("/v1/auth/whoami", headers={"x-mesh-user": f"e30.{payload}.c2ln"}) as response:
        facts = await response.json()
    assert (facts["principal"], facts["kind"], facts["name"]) == ("user:ada", "user", "ada")


async def test_the_metadata_names_the_doors_where_the_client_has_found_the_edge(client) -> None:
    async with client.get("/.well-known/oauth-authorization-server", headers={"x-forwarded-proto": "http"}) as response:
        facts = await response.json()
    paths = [value for name, value in facts.items() if name.endswith(("_endpoint", "_uri"))]
    assert paths
    assert all(path.startswith("http://edge.example/") for path in paths)
    for path in paths:
        for method in ("GET", "POST"):
            async with client.request(method, path.removeprefix("http://edge.example")) as response:
                assert response.status != 404


async def test_the_key_set_is_that_of_the_control_plane(client) -> None:
    async with client.get("/.well-known/jwks.json") as response:
        assert (await response.json(content_type="application/jwk-set+json")) == {"keys": []}
