"""The contracts that clients outside of the mesh may use, as descriptors."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodOptions
from google.rpc import error_details_pb2, status_pb2

from agentmesh.agent.v1 import agent_service_pb2
from agentmesh.error.v1 import error_pb2
from agentmesh.gateway.v1 import catalog_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2

_HTTP: Any = annotations_pb2.http

PUBLIC: tuple[ServiceDescriptor, ...] = (
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"],
    catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"],
    mcp_bridge_service_pb2.DESCRIPTOR.services_by_name["McpBridgeService"],
)
"""The services, sorted by name."""

_OF_GATEWAYS = "agentmesh.gateway.v1"

# What may stand in the details of an error.
_DETAILS = (status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR, error_pb2.DESCRIPTOR)


@cache
def public_descriptor_set() -> bytes:
    """A FileDescriptorSet of the public contracts and of what errors may carry, with all that these need.

    Each unary method that has a binding to HTTP has another one, POST /PACKAGE.SERVICE/METHOD with the request as JSON:
    that is the unary call of the Connect protocol, https://connectrpc.com/docs/protocol.
    """
    files: dict[str, FileDescriptor] = {}
    for root in (*(service.file for service in PUBLIC), *_DETAILS):
        for file in _with_dependencies(root):
            files.setdefault(file.name, file)
    return FileDescriptorSet(file=[_bound(file) for file in files.values()]).SerializeToString(deterministic=True)


def http_rule(method: MethodDescriptor) -> Any:
    """The google.api.http annotation of a method, a google.api.HttpRule; None when it has none."""
    options = method.GetOptions()
    return options.Extensions[_HTTP] if options.HasExtension(_HTTP) else None


@cache
def public_reads() -> tuple[str, ...]:
    """PACKAGE.SERVICE/METHOD of what services answer once and what changes nothing (NO_SIDE_EFFECTS), sorted.

    What gateways serve themselves is left out.
    """
    return tuple(
        sorted(
            f"{service.full_name}/{method.name}"
            for service in PUBLIC
            if service.file.package != _OF_GATEWAYS
            for method in service.methods
            if not method.client_streaming and not method.server_streaming
            if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        )
    )


def find_reads(pattern: str) -> tuple[str, ...]:
    """The public reads that a pattern is about: PACKAGE.SERVICE/METHOD, PACKAGE.SERVICE/* or "*"."""
    if pattern.endswith("*"):
        return tuple(method for method in public_reads() if method.startswith(pattern[:-1]))
    return tuple(method for method in public_reads() if method == pattern)


def _with_dependencies(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """What a file needs before the file itself."""
    for dependency in file.dependencies:
        yield from _with_dependencies(dependency)
    yield file


def _bound(file: FileDescriptor) -> FileDescriptorProto:
    made = FileDescriptorProto.FromString(file.serialized_pb)
    for service in made.service:
        for method in service.method:
            is_unary = not method.client_streaming and not method.server_streaming
            if is_unary and method.options.HasExtension(_HTTP):
                rule = method.options.Extensions[_HTTP]
                rule.additional_bindings.add(post=f"/{made.package}.{service.name}/{method.name}", body="*")
    return made
