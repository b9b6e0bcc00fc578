"""How the sidecars time the answers of a cluster: by the load reports that they send anyway.

Envoy's load reports have no latencies, but they sum up named metrics that a response carries in its header
`endpoint-load-metrics`. So a filter on the cluster's own side of the router writes the time that the answer took into
the name of a metric with the value 1: the report then says how many answers took how many milliseconds. The filter
replaces what a server sends under that name. See docs/decisions/0012.
"""

import re
from typing import Any

from mesh.xds.resources.resource import any_of

LOAD_HEADER = "endpoint-load-metrics"
"""The header that the filter writes; it is of no use to callers."""

_PREFIX = "named_metrics."
_METRIC = re.compile(rf"{re.escape(_PREFIX)}d(\d{{1,9}})")

# From the first byte that went to the upstream to the first byte that came back, of this try alone.
_VALUE = f"TEXT {_PREFIX}d%COMMON_DURATION(US_TX_BEG:US_RX_BEG:ms)%=1"

_TIMER: dict[str, Any] = {
    "name": "timer",
    "typed_config": any_of(
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        {
            "mutations": {
                "response_mutations": [
                    {"remove": f"{LOAD_HEADER}-bin"},
                    {
                        "append": {
                            "header": {"key": LOAD_HEADER, "value": _VALUE},
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    },
                ]
            }
        },
    ),
}
_CODEC: dict[str, Any] = {
    "name": "codec",
    "typed_config": any_of("extensions.filters.http.upstream_codec.v3.UpstreamCodec"),
}

UPSTREAM_FILTERS = (_TIMER, _CODEC)
"""For `http_filters` in the HttpProtocolOptions of a cluster that is timed."""

REPORTED_METRICS = (f"{_PREFIX}*",)
"""For `lrs_report_endpoint_metrics` of a cluster that is timed."""


def is_timed(cluster: str) -> bool:
    """Whether the answers of a cluster are timed: those of subsets are, SUBSET.SERVICE."""
    return "." in cluster and not cluster.startswith("@")


def milliseconds_of(metric: str) -> int | None:
    """The time that a metric of the timer stands for; None for any other metric."""
    match = _METRIC.fullmatch(metric)
    return int(match[1]) if match is not None else None
