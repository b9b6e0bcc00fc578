"""Codes of devices, by a clock of the test."""

import pytest

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.errors import ResourceExhausted
from services.gateway.web.tokens.device_codes import LIFETIME, DeviceCodes
from services.gateway.web.tokens.oauth import OAuthError

ISSUED = pb.IssueTokenResponse(access_token="a.b.c", expires_in=600, refresh_token="rt_1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def codes(clock):
    return DeviceCodes(clock=clock)


def refusal(codes: DeviceCodes, device_code: str, client: str = "cli") -> str:
    with pytest.raises(OAuthError) as found:
        codes.poll(device_code, client)
    return found.value.code


def test_a_device_gets_its_tokens_once(codes, clock) -> None:
    made = codes.begin("cli", "")
    assert refusal(codes, made.device_code) == "authorization_pending"
    assert codes.grant(made.user_code, ISSUED)
    clock.now += made.interval
    assert codes.poll(made.device_code, "cli").refresh_token == "rt_1"
    assert refusal(codes, made.device_code) == "invalid_grant"


def test_tokens_that_were_fetched_late_live_shorter(codes, clock) -> None:
    made = codes.begin("cli", "")
    codes.grant(made.user_code, ISSUED)
    clock.now += 100
    assert codes.poll(made.device_code, "cli").expires_in == 500


def test_one_who_asks_too_often_has_to_wait_longer_each_time(codes, clock) -> None:
    made = codes.begin("cli", "")
    assert refusal(codes, made.device_code) == "authorization_pending"
    clock.now += made.interval - 1
    assert refusal(codes, made.device_code) == "slow_down"
    clock.now += made.interval
    assert refusal(codes, made.device_code) == "slow_down"
    clock.now += made.interval + 10
    assert refusal(codes, made.device_code) == "authorization_pending"


def test_a_code_is_found_however_it_is_spelt_until_it_is_used(codes) -> None:
    made = codes.begin("cli", "")
    assert codes.waits(made.user_code.lower().replace("-", " "))
    assert codes.grant(made.user_code, ISSUED)
    assert not codes.waits(made.user_code)
    assert not codes.grant(made.user_code, ISSUED)


def test_only_the_client_that_has_begun_gets_the_tokens(codes) -> None:
    made = codes.begin("cli", "")
    codes.grant(made.user_code, ISSUED)
    assert refusal(codes, made.device_code, "other") == "invalid_grant"
    assert codes.poll(made.device_code, "cli").access_token == "a.b.c"


def test_a_code_ends_and_what_nobody_has_fetched_is_handed_back(codes, clock) -> None:
    fetched, left, waiting = (codes.begin("cli", "") for _ in range(3))
    codes.grant(fetched.user_code, ISSUED)
    codes.poll(fetched.device_code, "cli")
    codes.grant(left.user_code, pb.IssueTokenResponse(refresh_token="rt_2"))
    assert codes.sweep() == []
    clock.now += LIFETIME
    assert not codes.waits(waiting.user_code)
    assert refusal(codes, left.device_code) == refusal(codes, waiting.device_code) == "expired_token"
    assert codes.sweep() == ["rt_2"]
    assert refusal(codes, waiting.device_code) == "invalid_grant"


@pytest.mark.parametrize(("addresses", "most"), [(lambda n: "10.0.0.1", 20), (str, 1000)])
def test_how_many_wait_is_bounded_by_address_and_altogether(codes, clock, addresses, most) -> None:
    for number in range(most):
        codes.begin("cli", addresses(number))
    with pytest.raises(ResourceExhausted):
        codes.begin("cli", addresses(most))
    clock.now += LIFETIME
    codes.sweep()
    codes.begin("cli", addresses(most))
