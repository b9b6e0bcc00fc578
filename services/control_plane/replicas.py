"""The control planes beside this one: who leads, and what they have in common."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mesh.config import DeclarationStore
from mesh.discovery import ConsulEndpoint, Leadership, open_leadership
from mesh.runtime import open_background
from mesh.state import StateStore
from services.control_plane.shared_declarations import SharedDeclarations


@dataclass(frozen=True, slots=True)
class Replicas:
    """Who leads, and `declared`, to be called with the name of a service whose declaration was changed here."""

    leadership: Leadership
    declared: Callable[[str], None]


@asynccontextmanager
async def open_replicas(
    name: str, consul: ConsulEndpoint | None, declarations: DeclarationStore, store: StateStore
) -> AsyncIterator[Replicas]:
    """Contend for the lead under `name` and share declarations through `consul`; without it, be alone."""
    if consul is None:
        yield Replicas(Leadership.alone(name), lambda _: None)
        return
    shared = SharedDeclarations(declarations, consul, lambda: store.set_declarations(declarations.declarations))
    async with open_leadership(consul, name) as leadership, open_background(shared.follow()):
        yield Replicas(leadership, shared.note)
