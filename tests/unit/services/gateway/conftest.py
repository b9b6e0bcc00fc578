"""A gateway's knowledge, as a control plane would have told it, and tokens as its guard writes them."""

import base64
import json
import shutil
import tempfile
from pathlib import Path

import pytest

from agentmesh.access.v1 import access_pb2
from agentmesh.control.v1 import control_pb2
from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from services.gateway.knowledge import Knowledge

ACCESS = {
    "roles": {
        "most": {"allow": [{}]},
        "asks": {
            "allow": [
                {"services": ["financial"]},
                {"services": ["gateway"], "methods": ["/graphql", "agentmesh.gateway.v1.CatalogService/*"]},
            ]
        },
    },
    "bindings": {"guests": {"anonymous": True, "roles": ["asks"]}},
}


def service(name, kind="mcp", upstreams=(), version="1.0.0", capabilities=()):
    instance = control_pb2.Instance(
        id=f"{name}-1",
        address="10.0.0.7",
        port=9000,
        version=version,
        protocol="grpc",
        healthy=True,
        capabilities=capabilities,
    )
    return control_pb2.Service(name=name, kind=kind, instances=[instance], upstreams=upstreams)


def access(version="1", keys=("am_root",), rules=ACCESS):
    """What WatchAccess says; all keys have the role most."""
    return pb.WatchAccessResponse(
        version=version,
        document=json.dumps({"access": rules, "edge": {}}).encode(),
        keys=[access_pb2.KeyVerifier(id=key, roles=["most"]) for key in keys],
    )


def token(kind="key", name="am_root", roles=("most",)):
    """A user token, of which doors read the claims only."""
    claims = {"sub": f"{kind}:{name}", "kind": kind, "name": name, "roles": roles}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


class World:
    """Makes what tests say about the mesh."""

    service = staticmethod(service)
    access = staticmethod(access)
    token = staticmethod(token)

    def __init__(self):
        self.knowledge = Knowledge()
        self.knowledge.set_access(access())
        self.set_services(
            service("financial", upstreams=["*", "secrets", "financial"]),
            service("secrets"),
            service("von-neumann", "agent", upstreams=["financial"]),
        )

    def set_services(self, *services, revision=3):
        found = sorted(services, key=lambda it: it.name)
        self.knowledge.set_mesh(
            pb.WatchMeshResponse(services=found, revision=revision, document_version=f"v{revision}")
        )


@pytest.fixture
def world():
    return World()


@pytest.fixture
def short_folder():
    """For sockets, whose paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)
