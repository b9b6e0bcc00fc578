"""Who may see what, now."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mesh.access import ANONYMOUS, Principal
from services.gateway.knowledge import Knowledge
from services.gateway.web.caller import Caller
from services.gateway.web.events import Event, Sight

KEY, USER = Principal("key", "k"), Principal("user", "ada", login="l")


def about(subject, kind="service.changed"):
    return Event("e-1", kind, "", subject)


@pytest.fixture
def sight_of(knowledge):
    def sight_of(principal, now=0.0):
        return Sight(knowledge, Caller(principal, client="10.0.0.1"), "/events", clock=lambda: now)

    return sight_of


@pytest.mark.parametrize(
    ("roles", "service", "task"),
    [(("all",), True, True), (("looker",), True, False), (("one",), False, False), ((), False, False)],
)
def test_services_are_shown_to_who_may_call_something_of_them_and_tasks_to_who_may_watch_them(
    knowledge, access, sight_of, roles, service, task
):
    knowledge.set_access(access(key={"roles": roles}))
    sight = sight_of(KEY)
    assert sight.sees_service("b") == sight.sees(about("b")) == service
    assert sight.sees(about("b", "task.changed")) == sight.sees(about("b", "task.missed")) == task
    assert sight.sees(about("", "config.changed"))


def test_other_rules_count_at_once(knowledge, access, sight_of):
    knowledge.set_access(access(key={"roles": ["all"]}))
    sight = sight_of(KEY)
    assert sight.sees(about("b"))
    knowledge.set_access(access(key={"roles": ["one"]}))
    assert not sight.sees(about("b"))
    assert sight.sees(about("a"))
    assert sight.check() is None


@pytest.mark.parametrize(
    ("principal", "known", "reason"),
    [
        (KEY, {"key": {"roles": ["all"]}}, ""),
        (KEY, {"key": {"roles": ["all"], "revoked": True}}, "KEY_REVOKED"),
        (KEY, {"key": {"roles": ["all"], "expire_time": Timestamp(seconds=10)}}, "KEY_EXPIRED"),
        (KEY, {}, "KEY_UNKNOWN"),
        (KEY, {"key": {"roles": []}}, "NO_RULE"),
        (USER, {"user": {"roles": ["looker"]}}, ""),
        (USER, {"user": {"roles": ["all"], "disabled": True}}, "USER_DISABLED"),
        (USER, {"user": {"roles": ["all"]}, "ended_logins": ("l",)}, "LOGIN_ENDED"),
        (Principal("token", "x", issuer="i", roles=("all",)), {}, ""),
        (ANONYMOUS, {"anonymous": ("all",)}, ""),
        (ANONYMOUS, {}, "NOT_AUTHENTICATED"),
    ],
)
def test_a_stream_goes_on_as_long_as_its_credential_counts_and_its_door_is_open(
    knowledge, access, sight_of, principal, known, reason
):
    knowledge.set_access(access(**known))
    ending = sight_of(principal, now=11.0).check()
    assert (ending.reason if ending else "") == reason
    assert ending is None or ending.code == 1008
    if reason.startswith(("KEY", "USER", "LOGIN")):
        assert not sight_of(principal, now=11.0).sees(about("", "config.changed"))


def test_nothing_is_shown_before_the_rules_are_known():
    sight = Sight(Knowledge(), Caller(ANONYMOUS), "/events")
    assert not sight.sees(about("a"))
    assert not sight.sees(about("", "config.changed"))


def test_those_without_a_credential_are_told_apart_by_their_address(sight_of):
    assert sight_of(ANONYMOUS).owner == "client:10.0.0.1"
    assert sight_of(KEY).owner == "key:k"


def test_roles_that_came_from_claims_stay_and_those_of_bindings_do_not(knowledge, access, sight_of):
    shown = Principal("token", "x", issuer="i", roles=("one",))
    sight, anonymous = sight_of(shown), sight_of(Principal("anonymous", roles=("all",)))
    assert sight.sees(about("a"))
    assert anonymous.sees(about("a"))
    knowledge.set_access(access())
    assert sight.sees(about("a"))
    assert not sight.sees(about("b"))
    assert not anonymous.sees(about("a"))
    assert sight.check() is None
    assert anonymous.check() is not None
