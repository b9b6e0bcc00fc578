"""What happens with a request that matches a route: where it goes, how long it may take, what is changed."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from mesh.config.document import Retry, Route, Secret
from mesh.config.document.routing import HeaderEdits, Mirror, Rewrite
from mesh.errors import InvalidInput
from mesh.xds.resources.faults import build_fault, is_meant
from mesh.xds.resources.host import Host, Place, tracing_of
from mesh.xds.resources.retries import build_retry
from mesh.xds.resources.timing import LOAD_HEADER, is_timed
from mesh.xds.resources.values import fraction, seconds

_WHOLE = Route(name="default")
"""What holds for requests that no route matches."""


def build_route(host: Host, route: Route | None, match: dict[str, Any]) -> dict[str, Any]:
    """A Route of `host` for requests that match; without a route of the document its default."""
    chosen = route if route is not None else _WHOLE
    fault = chosen.fault if chosen.fault is not None else host.policy.fault
    literal: dict[str, Any] = {
        "match": match,
        "route": _action(host, chosen),
        **_added(host, "request", chosen.headers.request),
        **_added(host, "response", chosen.headers.response),
        **tracing_of(host.sampling_percent, chosen.headers.request.remove),
    }
    if removed := dict.fromkeys((*chosen.headers.response.remove, *_hidden(host, chosen))):
        literal["response_headers_to_remove"] = list(removed)
    if route is not None:
        literal["name"] = f"{host.service}/{route.name}"
    if fault is not None and is_meant(fault, host.caller):
        literal["typed_per_filter_config"] = build_fault(fault)
    return literal


def shares_of(host: Host, route: Route) -> dict[str, int]:
    """Targets of a route with their weights, without those that get nothing."""
    if route.to is not None:
        return {route.to: 1}
    split = route.split or host.policy.split or {host.service: 1}
    shares = {target: weight for target, weight in sorted(split.items()) if weight}
    if not shares:
        raise InvalidInput(
            f"A split of {host.service} gives no target any share.",
            field=f"services.{host.service}",
            fix="Give at least one target a weight above 0.",
        )
    return shares


def _action(host: Host, route: Route) -> dict[str, Any]:
    shares = shares_of(host, route)
    places = [host.place(target) for target in shares]
    retry = route.retry if route.retry is not None else host.policy.retry
    idle = route.idle_timeout if route.idle_timeout is not None else host.policy.idle_timeout
    return {
        **_destination(shares, places),
        **_times(host, route.timeout if route.timeout is not None else host.policy.timeout),
        **({"idle_timeout": seconds(idle)} if idle is not None else {}),
        "retry_policy": build_retry(retry),
        **_hedge(retry),
        **_mirror(host, route.mirror),
        **_rewrite(route.rewrite),
        **_hash(places),
    }


def _destination(shares: Mapping[str, int], places: list[Place]) -> dict[str, Any]:
    if len(places) == 1:
        return {"cluster": places[0].cluster}
    clusters = [{"name": place.cluster, "weight": shares[place.target]} for place in places]
    return {"weighted_clusters": {"clusters": clusters}}


def _times(host: Host, timeout: timedelta | None) -> dict[str, Any]:
    """No default cuts a stream or a long call; a caller's grpc-timeout holds, up to the limit if there is one."""
    if not timeout:
        return {"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}
    limit = seconds(timeout)
    if host.policy.protocol != "grpc":
        # 504, as HTTP has it. Beside a max_stream_duration Envoy would not look at it.
        return {"timeout": limit}
    # `timeout` would start only when the caller has sent all, and its answer is no DEADLINE_EXCEEDED.
    duration = {"max_stream_duration": limit, "grpc_timeout_header_max": limit}
    return {"timeout": "0s", "max_stream_duration": duration}


def _hedge(retry: Retry) -> dict[str, Any]:
    return {"hedge_policy": {"hedge_on_per_try_timeout": True}} if retry.hedge else {}


def _mirror(host: Host, mirror: Mirror | None) -> dict[str, Any]:
    if mirror is None:
        return {}
    share = {"default_value": fraction(mirror.percent)}
    return {"request_mirror_policies": [{"cluster": host.place(mirror.to).cluster, "runtime_fraction": share}]}


def _rewrite(rewrite: Rewrite | None) -> dict[str, Any]:
    if rewrite is None:
        return {}
    literal: dict[str, Any] = {}
    if rewrite.authority is not None:
        literal["host_rewrite_literal"] = rewrite.authority
    if rewrite.prefix is not None:
        literal["prefix_rewrite"] = rewrite.prefix
    if rewrite.regex is not None:
        literal["regex_rewrite"] = {"pattern": {"regex": rewrite.regex}, "substitution": rewrite.substitution}
    return literal


def _hash(places: Iterable[Place]) -> dict[str, Any]:
    """The first of these that a request has decides alone."""
    keys = dict.fromkeys(key for place in places for key in place.hash_on)
    return {"hash_policy": [_hash_key(key) | {"terminal": True} for key in keys]} if keys else {}


def _hash_key(key: str) -> dict[str, Any]:
    kind, _, name = key.partition(":")
    if kind == "header":
        return {"header": {"header_name": name}}
    if kind == "cookie":
        return {"cookie": {"name": name}}
    if kind == "query":
        return {"query_parameter": {"name": name}}
    return {"connection_properties": {"source_ip": True}}


def _hidden(host: Host, route: Route) -> tuple[str, ...]:
    """What the sidecar itself writes into answers, and callers are not to see."""
    is_any_timed = any(is_timed(host.place(target).cluster) for target in shares_of(host, route))
    return (LOAD_HEADER,) if is_any_timed else ()


def _added(host: Host, direction: str, edits: HeaderEdits) -> dict[str, Any]:
    added = [
        {"header": {"key": name, "value": _text(host, value)}, "append_action": action, "keep_empty_value": True}
        for values, action in (
            (edits.set, "OVERWRITE_IF_EXISTS_OR_ADD"),
            (edits.add, "APPEND_IF_EXISTS_OR_ADD"),
        )
        for name, value in sorted(values.items())
    ]
    return {f"{direction}_headers_to_add": added} if added else {}


def _text(host: Host, value: str | Secret) -> str:
    """The text as it is: % would begin one of Envoy's own substitutions."""
    return (host.secret(value.secret) if isinstance(value, Secret) else value).replace("%", "%%")
