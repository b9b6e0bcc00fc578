"""ConfigService tells what becomes of a call."""

import asyncio
from types import SimpleNamespace

from agentmesh.config.v1 import config_service_pb2
from mesh.config.document import MeshDocument, Policy
from mesh.model import Declaration, Instance
from mesh.state import MeshState, StateStore
from services.control_plane.config_service import ConfigParts, ConfigServicer


async def test_a_call_is_explained_from_the_state_of_the_moment():
    document = MeshDocument.model_validate({"services": {"echo": {"split": {"echo": 1, "backup": 1}}}})
    state = MeshState(
        "mesh.test",
        services={"echo": (Instance("echo", "echo-1", "10.0.0.1", 7),)},
        declarations={"caller": Declaration("caller", "service", ("echo",))},
        policy=Policy(document),
    )
    asked = []
    parts = ConfigParts(SimpleNamespace(history=None), None, None, StateStore(state), asyncio.Event())
    servicer = ConfigServicer(parts, lambda: asked.append("access"))
    request = config_service_pb2.ExplainCallRequest(caller="caller", callee="echo", method="a.B/C")
    told = await servicer.ExplainCall(request, None)
    assert asked == ["access"]
    assert (told.allowed, told.route, told.intention) == (True, "default route", "default allow")
    found = {it.target: (it.percent, it.role, list(it.endpoints), it.healthy) for it in told.targets}
    assert found == {"echo": (50, "route", ["echo-1 10.0.0.1:7"], 1), "backup": (50, "route", [], 0)}
    assert told.verdict == "goes to echo 50 %. But no healthy instance of backup."
