"""Keys, users and token keys as messages."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.access.v1 import access_pb2
from mesh.access.key_store import ApiKeyRecord
from mesh.access.signing_keys import SigningKeyRecord
from mesh.access.user_store import UserRecord


def seconds_of(duration: Duration) -> float:
    """A Duration in seconds."""
    return float(duration.seconds) + duration.nanos / 1e9


def key_to_proto(record: ApiKeyRecord) -> access_pb2.ApiKey:
    """A key without its secret."""
    return access_pb2.ApiKey(
        id=record.id,
        label=record.label,
        roles=record.roles,
        create_time=timestamp(record.created),
        expire_time=timestamp(record.expires),
        revoke_time=timestamp(record.revoked),
        creator=record.creator,
        rotated_from=record.rotated_from,
    )


def user_to_proto(record: UserRecord) -> access_pb2.User:
    """A user without its password."""
    return access_pb2.User(
        name=record.name, roles=record.roles, create_time=timestamp(record.created), disabled=record.disabled
    )


def signing_to_proto(record: SigningKeyRecord, signer: SigningKeyRecord) -> access_pb2.SigningKey:
    """A key without its private part."""
    return access_pb2.SigningKey(
        id=record.id,
        algorithm=record.algorithm,
        create_time=timestamp(record.created),
        retire_time=timestamp(record.retires),
        signs=record.id == signer.id,
    )


def timestamp(seconds: float | None) -> Timestamp | None:
    """Seconds since 1970 as a Timestamp."""
    if seconds is None:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp
