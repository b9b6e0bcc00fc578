"""The messages in which Envoy asks the gateway: external authorization, and rate limits."""

from functools import cache
from typing import Any

from google.protobuf import message_factory

from mesh.rpc.envoy_descriptors import build_pool

AUTHORIZATION = "envoy.service.auth.v3"
RATE_LIMIT = "envoy.service.ratelimit.v3"

_ROOTS = ("envoy/service/auth/v3/external_auth.proto", "envoy/service/ratelimit/v3/rls.proto")


@cache
def message(name: str) -> Any:
    """The class of a message by its full name."""
    return message_factory.GetMessageClass(build_pool(_ROOTS).FindMessageTypeByName(name))
