"""What a resource needs to be there: read out of the resource itself, so that no builder can forget to say it."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources import Resource

Reference = tuple[str, str]
"""Type URL and name."""

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@lru_cache(maxsize=65536)
def references_of(resource: Resource) -> frozenset[Reference]:
    """The resources that this one leads to: routes of a listener, clusters of routes, endpoints of a cluster."""
    find = {
        names.CLUSTER: _of_cluster,
        names.LISTENER: _of_listener,
        names.ROUTE: _of_routes,
    }.get(resource.type_url)
    if find is None:
        return frozenset()
    return frozenset(find(envoy_message(resource.type_url.rpartition("/")[2]).FromString(resource.body)))


def _of_cluster(cluster: Any) -> Iterator[Reference]:
    if cluster.HasField("eds_cluster_config"):
        yield names.ENDPOINT, cluster.eds_cluster_config.service_name or cluster.name


def _of_listener(listener: Any) -> Iterator[Reference]:
    managers = [filter_.typed_config for chain in listener.filter_chains for filter_ in chain.filters]
    if listener.HasField("api_listener"):
        managers.append(listener.api_listener.api_listener)
    for packed in managers:
        if packed.type_url.endswith(f"/{_HCM}"):
            manager = envoy_message(_HCM).FromString(packed.value)
            if manager.HasField("rds"):
                yield names.ROUTE, manager.rds.route_config_name
            yield from _of_routes(manager.route_config)


def _of_routes(routes: Any) -> Iterator[Reference]:
    for host in routes.virtual_hosts:
        for route in host.routes:
            if route.route.cluster:
                yield names.CLUSTER, route.route.cluster
            for weighted in route.route.weighted_clusters.clusters:
                yield names.CLUSTER, weighted.name
