"""A small mesh, and what proxies of it look like."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mesh.config.document import MeshDocument, Policy
from mesh.model import Address, Declaration, Instance, ProxySpec
from mesh.state import MeshState


def instance(service, number, *, is_healthy=True):
    return Instance(service, f"{service}-{number}", "10.0.0.1", 20_000 + number, is_healthy=is_healthy)


@pytest.fixture
def state():
    """Two services, one of them with an unhealthy instance; a caller of both; a gateway."""
    return MeshState(
        "mesh.test",
        services={
            "echo": (instance("echo", 1), instance("echo", 2, is_healthy=False)),
            "financial": (instance("financial", 1),),
        },
        declarations={
            "caller": Declaration("caller", "agent", ("echo", "financial")),
            "gateway": Declaration("gateway", "gateway", ("*",)),
            "echo": Declaration("echo", "service"),
        },
    )


def spec(service, **more):
    paths = {"outbound_socket": f"/run/{service}/out.sock", "secrets_dir": f"/run/{service}/secrets"}
    app = {"app_socket": f"/run/{service}/app.sock", "inbound": Address("10.0.0.9", 21_000)}
    return ProxySpec(service, f"{service}-1", **paths | app | more)


@pytest.fixture
def specs():
    """Each kind of proxy by name."""
    client = ProxySpec("caller", "caller-2", outbound_socket="/run/c/out.sock", secrets_dir="/run/c/secrets")
    return {
        "sidecar": spec("caller"),
        "gateway": spec(
            "gateway",
            edge=Address("127.0.0.1", 8080),
            edge_tls=Address("127.0.0.1", 8443),
            guard_socket="/run/gateway/guard.sock",
            web_socket="/run/gateway/web.sock",
        ),
        "exposed_health": spec("echo", exposed_health=Address("10.0.0.9", 21_001)),
        "pure_client": client,
    }


@pytest.fixture
def every_feature(state):
    """The same mesh with a document that uses every feature, and a revoked identity."""
    document = MeshDocument.model_validate(yaml.safe_load((Path(__file__).parent / "documents.yaml").read_text()))
    versions = {"echo-1": {"version": "1"}, "echo-2": {"metadata": {"tier": "gold"}, "is_healthy": True}}
    echo = tuple(replace(it, **versions[it.id]) for it in state.services["echo"])
    policy = Policy(document, revision=3, secrets={"env:KEY": "hush"})
    return replace(state, services={**state.services, "echo": echo}, policy=policy, revoked=frozenset({"thief"}))
