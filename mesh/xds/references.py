"""What a resource needs to be there: read out of the resource itself, so that no builder can forget to say it."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources import Resource

Reference = tuple[str, str]
"""Type URL and name."""

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

_AGGREGATE = "envoy.extensions.clusters.aggregate.v3.ClusterConfig"
_TRACER = "envoy.config.trace.v3.OpenTelemetryConfig"


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
    packed = cluster.cluster_type.typed_config
    if packed.type_url.endswith(f"/{_AGGREGATE}"):
        for name in envoy_message(_AGGREGATE).FromString(packed.value).clusters:
            yield names.CLUSTER, name
    if cluster.HasField("eds_cluster_config"):
        yield names.ENDPOINT, cluster.eds_cluster_config.service_name or cluster.name


def _of_listener(listener: Any) -> Iterator[Reference]:
    filters = [filter_ for chain in listener.filter_chains for filter_ in chain.filters]
    yield from _of_filters(filters)
    managers = [filter_.typed_config for filter_ in filters]
    if listener.HasField("api_listener"):
        managers.append(listener.api_listener.api_listener)
    for packed in managers:
        if packed.type_url.endswith(f"/{_HCM}"):
            manager = envoy_message(_HCM).FromString(packed.value)
            if manager.HasField("rds"):
                yield names.ROUTE, manager.rds.route_config_name
            yield from _of_routes(manager.route_config)
            yield from _of_filters(manager.http_filters)
            yield from _of_tracer(manager.tracing.provider.typed_config)


def _of_filters(filters: Iterable[Any]) -> Iterator[Reference]:
    """A filter that is configured apart has its configuration under its own name."""
    for filter_ in filters:
        if filter_.HasField("config_discovery"):
            yield names.EXTENSION, filter_.name


def _of_tracer(packed: Any) -> Iterator[Reference]:
    if packed.type_url.endswith(f"/{_TRACER}"):
        yield names.CLUSTER, envoy_message(_TRACER).FromString(packed.value).grpc_service.envoy_grpc.cluster_name


def _of_routes(routes: Any) -> Iterator[Reference]:
    for host in routes.virtual_hosts:
        for route in host.routes:
            # What stands in the bootstrap is there.
            if route.route.cluster not in ("", names.CONTROL_CLUSTER):
                yield names.CLUSTER, route.route.cluster
            for weighted in route.route.weighted_clusters.clusters:
                yield names.CLUSTER, weighted.name
            for mirror in route.route.request_mirror_policies:
                yield names.CLUSTER, mirror.cluster
