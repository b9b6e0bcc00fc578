"""Endpoints: where the healthy instances of a service are."""

from collections.abc import Iterable
from itertools import groupby

from mesh.model import Instance
from mesh.xds import names
from mesh.xds.resources.resource import Resource, build_resource


def build_endpoints(service: str, instances: Iterable[Instance]) -> Resource:
    """The healthy instances, by zone and id; empty when there is none."""
    healthy = sorted((it for it in instances if it.is_healthy), key=lambda it: (_zone(it), it.id))
    localities = [
        {
            # Always there: gRPC's own client refuses endpoints without a locality.
            "locality": {"zone": zone} if zone else {},
            "load_balancing_weight": 1,
            "lb_endpoints": [_endpoint(instance) for instance in members],
        }
        for zone, members in groupby(healthy, key=_zone)
    ]
    return build_resource(names.ENDPOINT, service, {"cluster_name": service, "endpoints": localities})


def _zone(instance: Instance) -> str:
    return instance.metadata.get("zone", "")


def _endpoint(instance: Instance) -> dict[str, object]:
    address = {"socket_address": {"address": instance.address, "port_value": instance.port}}
    return {"health_status": "HEALTHY", "endpoint": {"address": address}}
