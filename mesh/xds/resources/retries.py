"""When a request is tried again."""

from typing import Any

from mesh.config.document import Retry
from mesh.xds.resources.resource import any_of
from mesh.xds.resources.values import seconds

NOT_DELIVERED = "x-mesh-not-delivered"
"""Set by an inbound sidecar on its own answer when the request never reached the application."""

_ALWAYS = ("connect-failure", "refused-stream", "retriable-headers")
_ATTEMPTS = 3

# What fails at one instance is tried at another.
_OTHER_HOST = {
    "name": "previous_hosts",
    "typed_config": any_of("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
}


def build_retry(retry: Retry) -> dict[str, Any]:
    """A RetryPolicy. What certainly did not run is retried for everybody; callers mark what may run twice.

    Envoy has one count for all reasons, so where the document names reasons its count holds for all of them.
    """
    is_asked = bool(retry.on and retry.attempts)
    literal: dict[str, Any] = {
        "retry_on": ",".join(dict.fromkeys((*_ALWAYS, *(retry.on if is_asked else ())))),
        "retriable_headers": [{"name": NOT_DELIVERED, "present_match": True}],
        "num_retries": retry.attempts if is_asked or retry.hedge else max(_ATTEMPTS, retry.attempts),
        "retry_host_predicate": [_OTHER_HOST],
        "host_selection_retry_max_attempts": 5,
        "retry_back_off": {
            "base_interval": seconds(retry.backoff),
            "max_interval": seconds(retry.max_backoff),
        },
    }
    if retry.per_try_timeout is not None:
        literal["per_try_timeout"] = seconds(retry.per_try_timeout)
    return literal
