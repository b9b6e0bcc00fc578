"""What may be repeated: methods whose contract says so (idempotency_level)."""

from functools import lru_cache

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

# Envoy retries, not gRPC: two layers that retry multiply.
RETRY_MARK = (("x-envoy-retry-grpc-on", "unavailable"), ("x-envoy-max-retries", "3"))


@lru_cache(maxsize=4096)
def is_retryable(method: str) -> bool:
    """Whether the contract of "/package.Service/Method" allows repeating it; false when the contract is not known."""
    try:
        found = descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    except KeyError:
        return False
    return bool(found.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN)
