"""Which registry the mesh uses, and how a member of it gets there."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import mesh
from agentmesh.control.v1 import control_service_pb2
from mesh.config import MeshSettings
from mesh.discovery import ConsulRegistry, Registry, find_consul
from mesh.discovery.embedded import open_registry_client
from mesh.errors import FailedPrecondition, MeshError
from mesh.identity import Identity
from mesh.runtime import Backoff
from services.meshctl.connection import TIMEOUT, open_control

TOOLS_DIR = Path(mesh.__file__).resolve().parents[1] / ".tools"

_ANSWER_TIMEOUT = 20.0


async def choose_registry(settings: MeshSettings, *, say: Callable[[str], None]) -> MeshSettings:
    """The settings with "consul" or "embedded" for "auto": Consul when one is given, found or fetched.

    Raises FailedPrecondition when the settings ask for Consul and there is none.
    """
    if settings.registry == "embedded" or settings.consul_is_given:
        return replace(settings, registry="consul" if settings.registry == "auto" else settings.registry)
    try:
        await asyncio.to_thread(find_consul, TOOLS_DIR, progress=say)
    except FailedPrecondition as err:
        if settings.registry == "consul":
            raise
        say(f"no Consul: {err.summary}")
        return replace(settings, registry="embedded")
    return replace(settings, registry="consul")


async def settings_in_use(settings: MeshSettings) -> MeshSettings:
    """The settings with the registry that the mesh on this machine uses.

    Raises FailedPrecondition when MESH_REGISTRY names the other one.
    """
    async with open_control(settings) as control:
        facts = await control.GetMesh(control_service_pb2.GetMeshRequest(), timeout=TIMEOUT)
    if settings.registry not in ("auto", facts.registry):
        raise _other_registry(facts.registry, "MESH_REGISTRY")
    return replace(settings, registry=facts.registry)


def registry_of(settings: MeshSettings) -> Callable[[Identity], AbstractAsyncContextManager[Registry]]:
    """How a member gets to the registry. With "auto" in the settings it asks the control plane which one that is.

    It raises FailedPrecondition when a Consul is given and the mesh does not use it: who registers there is never
    called.
    """

    @asynccontextmanager
    async def open_registry(identity: Identity) -> AsyncIterator[Registry]:
        kind = settings.registry
        if kind == "auto":
            kind = await _ask(settings, identity)
            if kind == "embedded" and settings.consul_is_given:
                raise _other_registry(kind, "CONSUL_HTTP_ADDR")
        if kind == "consul":
            yield ConsulRegistry(settings.consul, token=settings.consul_token, scheme=settings.consul_scheme)
            return
        # One control plane alone keeps a registry.
        async with open_registry_client(str(settings.control_planes[0]), identity=identity) as client:
            yield client

    return open_registry


async def _ask(settings: MeshSettings, identity: Identity) -> str:
    """Which registry the mesh uses, by the word of any control plane; they are waited for when all are away."""
    backoff = Backoff(0.1, 1.0)
    ends_at = time.monotonic() + _ANSWER_TIMEOUT
    addresses = itertools.cycle(settings.control_planes)
    while True:
        try:
            async with open_registry_client(str(next(addresses)), identity=identity) as client:
                return await client.kind()
        except MeshError as err:
            wait = backoff.next()
            if not err.retryable or time.monotonic() + wait > ends_at:
                raise
            await asyncio.sleep(wait)


def _other_registry(kind: str, field: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"The registry of this mesh is {'Consul' if kind == 'consul' else 'its own, not Consul'}.",
        reason="OTHER_REGISTRY",
        field=field,
        fix=f"Unset {field}: a member uses what the mesh uses.",
    )
