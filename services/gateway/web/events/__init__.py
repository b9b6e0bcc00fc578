"""Live events over SSE (/events) and WebSocket (/ws): services, configuration, tasks.

Knowledge, WatchTask ──> sources ──> EventHub ──ring of the newest──> Subscription ──> SSE, WebSocket
"""

from services.gateway.web.events.hub import Event, EventHub, Subscription
from services.gateway.web.events.routes import event_routes
from services.gateway.web.events.sources import follow_mesh, follow_tasks

__all__ = ["Event", "EventHub", "Subscription", "event_routes", "follow_mesh", "follow_tasks"]
