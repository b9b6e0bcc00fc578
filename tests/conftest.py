"""What holds for all tests."""

# Before any test imports grpc: it prepares the process for gRPC and child processes side by side.
import mesh  # noqa: F401
