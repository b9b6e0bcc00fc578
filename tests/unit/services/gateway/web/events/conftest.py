"""What tests of events have in common."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from agentmesh.access.v1 import access_pb2
from agentmesh.control.v1 import control_pb2
from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from services.gateway.knowledge import Knowledge
from services.gateway.web.events import Event, EventHub
from services.gateway.web.events.event import Ending

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROLES = {
    "all": {"allow": [{}]},
    "one": {"allow": [{"services": ["a", "gateway"]}]},
    "looker": {"allow": [{"methods": ["agentmesh.agent.v1.AgentService/GetAgentCard", "/events"]}]},
}


class FakeSight:
    """Sees all but what is of `hidden`."""

    def __init__(self, owner: str = "me", hidden: Iterable[str] = ()) -> None:
        self.owner, self.hidden = owner, set(hidden)
        self.ending: Ending | None = None

    def sees(self, event: Event) -> bool:
        return event.subject not in self.hidden

    def sees_service(self, service: str) -> bool:
        return service not in self.hidden

    def check(self) -> Ending | None:
        return self.ending


@pytest.fixture(scope="session")
def sight() -> Callable[..., FakeSight]:
    return FakeSight


@pytest.fixture
def hub() -> EventHub:
    return EventHub(epoch="abc", clock=lambda: NOW)


@pytest.fixture
def service() -> Callable[..., control_pb2.Service]:
    def service(name: str, kind: str = "service", *healthy: bool, **more: Any) -> control_pb2.Service:
        instances = [
            control_pb2.Instance(id=f"{name}-{number}", healthy=is_healthy, **more)
            for number, is_healthy in enumerate(healthy, start=1)
        ]
        return control_pb2.Service(name=name, kind=kind, instances=instances)

    return service


@pytest.fixture
def access() -> Callable[..., pb.WatchAccessResponse]:
    """What the control plane says: roles of anonymous callers, of the key k and of the user ada."""
    versions = iter(range(1_000_000))

    def access(
        anonymous: tuple[str, ...] = (),
        key: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        ended_logins: tuple[str, ...] = (),
        origins: tuple[str, ...] = (),
    ) -> pb.WatchAccessResponse:
        bindings = {"b": {"anonymous": True, "roles": anonymous}} if anonymous else {}
        document = {"access": {"roles": ROLES, "bindings": bindings}, "edge": {"cors": {"origins": origins}}}
        return pb.WatchAccessResponse(
            version=str(next(versions)),
            document=json.dumps(document).encode(),
            keys=[] if key is None else [access_pb2.KeyVerifier(id="k", **key)],
            users=[] if user is None else [access_pb2.User(name="ada", **user)],
            ended_logins=ended_logins,
        )

    return access


@pytest.fixture
def knowledge(access) -> Knowledge:
    knowledge = Knowledge()
    knowledge.set_access(access(anonymous=("all",)))
    return knowledge
