"""Answers of reads that are kept for a time, for each principal by itself.

    edge Envoy ──> CacheDoor ──> Kept ──> Circuit ──> Valkey, Redis, or this process
                       └── miss ──> Flights ──> Upstream ──> own sidecar ──> the service

Envoy leads the methods of the rules `edge.cache` here, after they have become gRPC and the guard has let them pass.
"""

from services.gateway.cache.door import CacheDoor
from services.gateway.cache.flights import Flights, open_flights
from services.gateway.cache.generations import Generations
from services.gateway.cache.kept import Kept
from services.gateway.cache.question import Question
from services.gateway.cache.upstream import Upstream, open_upstream

__all__ = ["CacheDoor", "Flights", "Generations", "Kept", "Question", "Upstream", "open_flights", "open_upstream"]
