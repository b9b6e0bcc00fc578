"""One registered instance with what keeps it alive, and its form on the wire and on disk."""

import re
from dataclasses import dataclass, replace
from types import MappingProxyType

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from agentmesh.registry.v1 import registry_service_pb2 as pb
from mesh.discovery.registry import HealthCheck
from mesh.errors import InvalidInput
from mesh.model import KINDS, Address, Instance, check_service_name

LEASE = 15.0
MAX_BYTES = 64 << 10
"""The most that one registration may take, encoded."""

_DEFAULT = HealthCheck(Address("", 0), use_tls=True)
_LEASES = (1.0, 3600.0)
_INTERVALS = (0.2, 300.0)
_TIMEOUTS = (0.1, 30.0)
_PATIENCES = (1.0, 7 * 24 * 3600.0)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")
# A name or an IP, and nothing that gRPC could take for another kind of target.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})|[0-9A-Fa-f:.]{2,45}")


@dataclass(frozen=True, slots=True)
class Record:
    """An instance, how its health is checked, and the seconds for which it lives without a renewal.

    The instance's health is that of the last check.
    """

    instance: Instance
    check: HealthCheck
    lease: float = LEASE


def check_record(record: Record) -> None:
    """Raise InvalidInput that names the field at fault."""
    instance, check = record.instance, record.check
    check_service_name(instance.service, field="instance.service")
    if _ID.fullmatch(instance.id) is None:
        raise InvalidInput(
            f"{instance.id[:80]!r} is not an instance id.",
            field="instance.id",
            fix="Use letters, digits, dots, dashes and underscores, at most 128.",
        )
    if instance.kind not in KINDS:
        raise InvalidInput(
            f"{instance.kind[:80]!r} is not a kind.", field="instance.kind", fix=f"Use one of {', '.join(KINDS)}."
        )
    _check_address("instance.address", instance.address, instance.port)
    _check_address("health_check.host", check.target.host, check.target.port)
    _check_range("lease", record.lease, _LEASES)
    _check_range("health_check.interval", check.interval, _INTERVALS)
    _check_range("health_check.timeout", check.timeout, _TIMEOUTS)
    _check_range("health_check.deregister_after", check.deregister_after, _PATIENCES)
    size = record_to_proto(record).ByteSize()
    if size > MAX_BYTES:
        raise InvalidInput(
            f"The registration of {instance.id} takes {size} bytes, the registry takes {MAX_BYTES}.",
            field="capabilities" if len(instance.capabilities) > len(instance.metadata) else "metadata",
            fix="Announce fewer or shorter capabilities, or less metadata.",
        )


def record_to_proto(record: Record) -> pb.RegisterRequest:
    """The request that registers; also the form on disk. Raises InvalidInput for text that is no Unicode."""
    check = record.check
    return pb.RegisterRequest(
        instance=instance_to_proto(record.instance),
        lease=duration_to_proto(record.lease),
        health_check=pb.HealthCheck(
            host=check.target.host,
            port=check.target.port,
            use_tls=check.use_tls,
            interval=duration_to_proto(check.interval),
            timeout=duration_to_proto(check.timeout),
            deregister_after=duration_to_proto(check.deregister_after),
        ),
    )


def record_from_proto(request: pb.RegisterRequest) -> Record:
    """Read a request that registers, or what was kept on disk; the status in it is kept. Nothing is checked."""
    check = request.health_check
    target = Address(check.host or request.instance.address, check.port or request.instance.port)
    return Record(
        instance=instance_from_proto(request.instance),
        check=HealthCheck(
            target=target,
            use_tls=check.use_tls,
            interval=_seconds(check, "interval", _DEFAULT.interval),
            timeout=_seconds(check, "timeout", _DEFAULT.timeout),
            deregister_after=_seconds(check, "deregister_after", _DEFAULT.deregister_after),
        ),
        lease=_seconds(request, "lease", LEASE),
    )


def instance_to_proto(instance: Instance) -> pb.Instance:
    """An instance as it is told; raises InvalidInput for text that is no Unicode and for numbers that are no port."""
    status = pb.INSTANCE_STATUS_PASSING if instance.is_healthy else pb.INSTANCE_STATUS_CRITICAL
    try:
        return pb.Instance(
            service=instance.service,
            id=instance.id,
            address=instance.address,
            port=instance.port,
            version=instance.version,
            kind=instance.kind,
            protocol=instance.protocol,
            capabilities=instance.capabilities,
            metadata=dict(instance.metadata),
            status=status,
            status_output="" if instance.is_healthy else instance.health_output,
        )
    except (ValueError, TypeError) as err:
        raise InvalidInput(
            f"The instance {instance.id!a} cannot be written down: {err}.",
            field="instance",
            fix="Use text without halves of surrogate pairs, and a port from 1 to 65535.",
        ) from err


def instance_from_proto(message: pb.Instance) -> Instance:
    """An instance as it was told."""
    return Instance(
        service=message.service,
        id=message.id,
        address=message.address,
        port=message.port,
        kind=message.kind or "service",
        version=message.version,
        protocol=message.protocol or "grpc",
        capabilities=tuple(sorted(set(message.capabilities))),
        metadata=MappingProxyType(dict(sorted(message.metadata.items()))),
        is_healthy=message.status == pb.INSTANCE_STATUS_PASSING,
        health_output=message.status_output,
    )


def without_health(record: Record) -> Record:
    """The record of an instance that has not been checked yet."""
    instance = replace(record.instance, is_healthy=False, health_output="It has not been checked yet.")
    return replace(record, instance=instance)


def duration_to_proto(seconds: float) -> Duration:
    """Seconds as a Duration."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _seconds(message: Message, field: str, default: float) -> float:
    if not message.HasField(field):
        return default
    duration: Duration = getattr(message, field)
    return duration.seconds + duration.nanos / 1e9


def _check_address(field: str, host: str, port: int) -> None:
    if _HOST.fullmatch(host) is None or not 0 < port < 65536:
        raise InvalidInput(
            f"{host[:80]!r} and {port} are no address.", field=field, fix="Give a host or an IP, and a port from 1 on."
        )


def _check_range(field: str, seconds: float, bounds: tuple[float, float]) -> None:
    least, most = bounds
    if not least <= seconds <= most:
        raise InvalidInput(f"{seconds:g} s is out of bounds.", field=field, fix=f"Give {least:g} s to {most:g} s.")
