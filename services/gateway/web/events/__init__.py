"""Live events over SSE (/events) and WebSocket (/ws): services, configuration, tasks.

    Knowledge ───────────> MeshSource ─┐                                        ┌──> SSE
    agents ──WatchTasks──> TaskSource ─┴──> EventHub ──> Subscription, by Sight ┼──> WebSocket
                                            └ ring of the newest                └──> GraphQL

An event is told to those who may see the service that it is about, and of tasks to those who may watch them.
"""

from services.gateway.web.events.event import TYPES, Event, Notice, Wanted
from services.gateway.web.events.hub import EventHub
from services.gateway.web.events.mesh_source import MeshSource, follow_access
from services.gateway.web.events.routes import event_routes
from services.gateway.web.events.sight import Sight
from services.gateway.web.events.subscription import Subscription
from services.gateway.web.events.task_source import TaskSource
from services.gateway.web.events.times import Times

__all__ = [
    "TYPES",
    "Event",
    "EventHub",
    "MeshSource",
    "Notice",
    "Sight",
    "Subscription",
    "TaskSource",
    "Times",
    "Wanted",
    "event_routes",
    "follow_access",
]
