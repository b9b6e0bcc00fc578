"""How a caller chooses among the instances of a service."""

from datetime import timedelta
from typing import Any

from mesh.config.document.protection import LoadBalancing
from mesh.xds.resources.values import seconds


def build_balancing(balancing: LoadBalancing) -> dict[str, Any]:
    """The fields of a Cluster that say it."""
    match balancing.policy:
        case "least_request":
            return _least_request(balancing)
        case "round_robin":
            return _round_robin(balancing)
        case "random":
            return {"lb_policy": "RANDOM"}
        case "ring_hash":
            return _ring_hash(balancing)
        case "maglev":
            return {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": balancing.table_size}}


def _least_request(balancing: LoadBalancing) -> dict[str, Any]:
    config = _slow_start(balancing.slow_start)
    if balancing.choices != LoadBalancing().choices:
        config["choice_count"] = balancing.choices
    return {"lb_policy": "LEAST_REQUEST", **({"least_request_lb_config": config} if config else {})}


def _round_robin(balancing: LoadBalancing) -> dict[str, Any]:
    config = _slow_start(balancing.slow_start)
    return {"lb_policy": "ROUND_ROBIN", **({"round_robin_lb_config": config} if config else {})}


def _ring_hash(balancing: LoadBalancing) -> dict[str, Any]:
    config = {"minimum_ring_size": balancing.min_ring_size, "maximum_ring_size": balancing.max_ring_size}
    return {"lb_policy": "RING_HASH", "ring_hash_lb_config": config}


def _slow_start(window: timedelta) -> dict[str, Any]:
    return {"slow_start_config": {"slow_start_window": seconds(window)}} if window else {}
