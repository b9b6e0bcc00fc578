"""What holds for all tests."""

from hypothesis import settings

# Before any test imports grpc: it prepares the process for gRPC and child processes side by side.
import mesh  # noqa: F401

# The same examples in every run; `make test ARGS=--hypothesis-profile=random` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("same")
