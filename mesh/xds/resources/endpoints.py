"""Endpoints: where the healthy instances of a service are, and which of them a caller should prefer.

A caller that has a zone prefers the instances in it: they have priority 0, all others priority 1. Envoy sends to the
others what the own zone cannot carry: with h of n instances healthy the zone gets h/n * 1.4 of all, at most all, see
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/priority . For this Envoy must
know of the unhealthy ones in the zone, too.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from mesh.model import ZONE, Instance
from mesh.xds import names
from mesh.xds.resources.resource import Resource, build_resource

_OWN, _OTHER = 0, 1


def build_endpoints(cluster: str, instances: Iterable[Instance], *, zone: str = "") -> Resource:
    """For Envoys in `zone`: the healthy instances, by zone and id; empty when there is none.

    With priorities when there are healthy ones both in the zone and elsewhere; the unhealthy ones of the zone are then
    there, too, and said to be so.
    """
    every = tuple(instances)
    healthy = [it for it in every if it.is_healthy]
    if not _is_split(healthy, zone):
        return _build(cluster, [(_OWN, healthy)])
    own = [it for it in every if _zone(it) == zone]
    others = [it for it in healthy if _zone(it) != zone]
    return _build(cluster, [(_OWN, own), (_OTHER, others)])


def build_client_endpoints(cluster: str, instances: Iterable[Instance], *, zone: str = "") -> Resource:
    """For gRPC's own clients in `zone`: healthy instances only, in priorities without a gap, as it demands.

    It takes the next priority when nothing of the one before can be reached (gRFC A56), and knows no health by share.
    """
    healthy = [it for it in instances if it.is_healthy]
    if not _is_split(healthy, zone):
        return _build(cluster, [(_OWN, healthy)])
    own = [it for it in healthy if _zone(it) == zone]
    others = [it for it in healthy if _zone(it) != zone]
    return _build(cluster, [(_OWN, own), (_OTHER, others)])


def _is_split(healthy: list[Instance], zone: str) -> bool:
    return bool(zone) and len({_zone(it) == zone for it in healthy}) > 1


def _build(cluster: str, levels: list[tuple[int, list[Instance]]]) -> Resource:
    localities = [
        _locality(name, priority, members)
        for priority, level in levels
        for name, members in groupby(sorted(level, key=lambda it: (_zone(it), it.id)), key=_zone)
    ]
    return build_resource(names.ENDPOINT, cluster, {"cluster_name": cluster, "endpoints": localities})


def _locality(zone: str, priority: int, members: Iterable[Instance]) -> dict[str, Any]:
    return {
        # Always there: gRPC's own client refuses endpoints without a locality.
        "locality": {"zone": zone} if zone else {},
        "load_balancing_weight": 1,
        "lb_endpoints": [_endpoint(instance) for instance in members],
        **({"priority": priority} if priority else {}),
    }


def _zone(instance: Instance) -> str:
    return instance.metadata.get(ZONE, "")


def _endpoint(instance: Instance) -> dict[str, object]:
    address = {"socket_address": {"address": instance.address, "port_value": instance.port}}
    health = "HEALTHY" if instance.is_healthy else "UNHEALTHY"
    return {"health_status": health, "endpoint": {"address": address}}
