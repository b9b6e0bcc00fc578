"""The device flow over HTTP, with the page."""

import asyncio
import re

import pytest

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.errors import Unavailable
from services.gateway.web.server import build_app
from services.gateway.web.tokens.device import DeviceDoors
from services.gateway.web.tokens.device_codes import LIFETIME

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
PASSWORD = "correct horse battery"

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def begin(client) -> dict:
    async with client.post("/oauth2/device_authorization", data={"client_id": "cli"}) as response:
        assert response.status == 200
        assert response.headers["cache-control"] == "no-store"
        return await response.json()


async def send(client, headers=None, **form: str) -> tuple[int, str]:
    async with client.post("/oauth2/device", data=form, headers=headers or {}) as response:
        assert response.content_type == "text/html"
        return response.status, await response.text()


async def poll(client, device_code: str) -> tuple[int, dict]:
    form = {"grant_type": GRANT, "client_id": "cli", "device_code": device_code}
    async with client.post("/oauth2/token", data=form) as response:
        return response.status, await response.json()


async def test_a_person_logs_a_device_in(client, control_plane) -> None:
    begun = await begin(client)
    assert begun["verification_uri"] == "https://edge.example/oauth2/device"
    assert (await poll(client, begun["device_code"]))[1]["error"] == "authorization_pending"
    assert (await poll(client, begun["device_code"]))[1]["error"] == "slow_down"
    headers = {"origin": "https://edge.example", "sec-fetch-site": "same-origin"}
    status, page = await send(client, headers, user_code=begun["user_code"], user="ada", password=PASSWORD)
    assert (status, "Logged in" in page) == (200, True)

    other = await begin(client)
    await send(client, user_code=other["user_code"], user="ada", password=PASSWORD)
    status, tokens = await poll(client, other["device_code"])
    assert (status, tokens["token_type"], tokens["refresh_token"] in control_plane.good) == (200, "Bearer", True)
    assert (await poll(client, other["device_code"])) == (
        400,
        {"error": "invalid_grant", "error_description": "The device code is not known here, or was used already."},
    )


async def test_the_page_runs_nothing_and_nobody_can_frame_it(client) -> None:
    async with client.get("/oauth2/device") as response:
        page = await response.text()
        policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert response.headers["cache-control"] == "no-store"
    # Browsers would say "Origin: null", and the form would be refused.
    assert response.headers["referrer-policy"] == "same-origin"
    assert "<script" not in page
    assert re.search(r'name="password" type="password"', page)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
async def test_a_form_of_another_site_is_refused_before_anything_is_asked(client, control_plane, headers) -> None:
    begun = await begin(client)
    status, _ = await send(client, headers, user_code=begun["user_code"], user="ada", password=PASSWORD)
    assert (status, control_plane.asked) == (403, [])


async def test_what_was_typed_comes_back_escaped_and_the_password_never(client) -> None:
    begun = await begin(client)
    user = '"><script>x</script>'
    status, page = await send(client, user_code=begun["user_code"], user=user, password="wrong password")
    assert status == 403
    assert "<script" not in page
    assert "&quot;&gt;&lt;script&gt;" in page
    assert "wrong password" not in page
    assert begun["user_code"] in page


async def test_a_code_that_nobody_waits_with_costs_no_password_check_and_guessing_is_bounded(
    client, control_plane
) -> None:
    statuses = [(await send(client, user_code="BBBB-BBBB", user="ada", password=PASSWORD))[0] for _ in range(6)]
    assert statuses == [400] * 5 + [429]
    assert control_plane.asked == []


async def test_the_device_waits_on_after_a_wrong_password(client) -> None:
    begun = await begin(client)
    assert (await send(client, user_code=begun["user_code"], user="ada", password="wrong"))[0] == 403
    assert (await send(client, user_code=begun["user_code"], user="ada", password=PASSWORD))[0] == 200


async def test_a_person_who_has_to_wait_or_a_control_plane_that_is_away_is_said(client, control_plane) -> None:
    begun = await begin(client)
    control_plane.is_tired = True
    status, page = await send(client, user_code=begun["user_code"], user="ada", password=PASSWORD)
    assert (status, "Try again in 8 s." in page) == (429, True)
    control_plane.is_tired, control_plane.is_away = False, True
    assert (await send(client, user_code=begun["user_code"], user="ada", password=PASSWORD))[0] == 503


@pytest.mark.parametrize("form", [{}, {"client_id": ""}, {"client_id": "x" * 129}])
async def test_a_device_must_say_which_client_it_is(client, form) -> None:
    async with client.post(
        "/oauth2/device_authorization", data=form, headers={"content-type": "application/x-www-form-urlencoded"}
    ) as response:
        assert (response.status, (await response.json())["error"]) == (400, "invalid_request")


async def test_no_address_can_let_more_than_twenty_devices_wait(client) -> None:
    for _ in range(20):
        await begin(client)
    async with client.post("/oauth2/device_authorization", data={"client_id": "cli"}) as response:
        assert (response.status, (await response.json())["error"]) == (429, "temporarily_unavailable")
        assert int(response.headers["retry-after"]) > 0


async def test_of_two_who_log_in_for_one_device_the_slower_ones_login_ends(client, control_plane) -> None:
    begun = await begin(client)
    control_plane.together = asyncio.Barrier(2)
    form = {"user_code": begun["user_code"], "user": "ada", "password": PASSWORD}
    statuses = [status for status, _ in await asyncio.gather(send(client, **form), send(client, **form))]
    assert sorted(statuses) == [200, 400]
    _, tokens = await poll(client, begun["device_code"])
    assert control_plane.good == {tokens["refresh_token"], *control_plane.revoked}
    assert len(control_plane.revoked) == 1


async def test_a_login_that_its_device_never_fetched_ends_even_when_that_fails_once(client, served) -> None:
    now, revoked = [0.0], []

    async def log_in(user: str, password: str, address: str) -> pb.IssueTokenResponse:
        return pb.IssueTokenResponse(access_token="a.b.c", expires_in=600, refresh_token=f"rt_{user}")

    async def revoke(token: str) -> None:
        revoked.append(token)
        if len(revoked) == 1:
            raise Unavailable("The control plane is away.")

    served[0].doors = build_app(DeviceDoors(log_in, revoke, clock=lambda: now[0]).routes())
    for user in ("ada", "eve"):
        begun = await begin(client)
        assert (await send(client, user_code=begun["user_code"], user=user, password=PASSWORD))[0] == 200
    await begin(client)
    assert revoked == []
    now[0] += LIFETIME
    await begin(client)
    assert revoked == ["rt_ada", "rt_eve"]
