"""Between the mesh's words and Consul's.

An instance is a Consul service with the tags "agentmesh" and its kind. The rest is service metadata: kind, version,
protocol, capabilities (comma separated, spread over capabilities, capabilities-2, ...) and the instance's own metadata
with the prefix "x-". Consul's limits: 64 keys, 128 characters a key, 512 bytes a value
(https://developer.hashicorp.com/consul/docs/reference/service#meta).
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from consul.check import Check

from mesh.discovery.registry import HealthCheck
from mesh.errors import InvalidInput
from mesh.model import KINDS, Instance, check_service_name

TAG = "agentmesh"
MAX_KEYS = 64
MAX_KEY_LENGTH = 128
MAX_VALUE_BYTES = 512
MAX_OUTPUT = 500

_OWN_PREFIX = "x-"
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_HEALTHY = {"passing", "warning"}

Fingerprint = frozenset[tuple[str, str, int]]


def check_id(instance_id: str) -> str:
    """The id of an instance's health check, the same after every registration."""
    return f"service:{instance_id}"


def build_tags(instance: Instance) -> list[str]:
    """The tags of an instance."""
    return [TAG, instance.kind]


def build_meta(instance: Instance) -> dict[str, str]:
    """The metadata of an instance; raises InvalidInput that names what Consul would not take."""
    meta = {"kind": instance.kind, "version": instance.version, "protocol": instance.protocol}
    meta |= {_numbered("capabilities", n): text for n, text in enumerate(_pack(instance.capabilities), start=1)}
    meta |= {_OWN_PREFIX + key: value for key, value in instance.metadata.items()}
    for key, value in meta.items():
        _check_pair(key, value)
    if len(meta) > MAX_KEYS:
        raise InvalidInput(
            f"The instance has {len(meta)} metadata entries, Consul takes {MAX_KEYS}.",
            field="metadata" if len(instance.metadata) > MAX_KEYS // 2 else "capabilities",
            fix="Announce fewer or shorter capabilities, or less metadata.",
        )
    return {key: value for key, value in meta.items() if value}


def build_check(instance: Instance, check: HealthCheck) -> dict[str, Any]:
    """Consul's gRPC check of an instance.

    Its notes carry a digest of the instance: a change of metadata alone wakes no watch on checks, a change of notes
    does, and it tells which service to read again.
    """
    definition: dict[str, Any] = Check.grpc(
        str(check.target),
        _duration(check.interval),
        timeout=_duration(check.timeout),
        deregister=_duration(check.deregister_after),
    )
    # py-consul writes grpc_use_tls, which Consul 1.8 refuses; these are the names of the HTTP API.
    tls = {"GRPCUseTLS": True, "TLSSkipVerify": True} if check.use_tls else {}
    return (
        definition
        | tls
        | {
            "checkid": check_id(instance.id),
            "name": f"gRPC health of {instance.id}",
            "notes": f"{TAG} {_digest(instance)}",
            "status": "critical",
        }
    )


def parse_instances(service: str, entries: Iterable[Mapping[str, Any]]) -> tuple[Instance, ...]:
    """Read an answer of /v1/health/service/NAME: the members of the mesh, sorted by id.

    The same id at two Consul agents means two instances; their ids get "@NODE". Raises the errors of a wrong form
    (KeyError, TypeError, ValueError, AttributeError).
    """
    found = [
        (_parse_instance(service, entry), str(entry["Node"]["Node"]))
        for entry in entries
        if TAG in (entry["Service"]["Tags"] or ())
    ]
    count = Counter(instance.id for instance, _ in found)
    named = (
        replace(instance, id=f"{instance.id}@{node}") if count[instance.id] > 1 else instance
        for instance, node in found
    )
    return tuple(sorted((instance for instance in named if instance.port), key=lambda instance: instance.id))


def fingerprints(checks: Iterable[Mapping[str, Any]]) -> dict[str, Fingerprint]:
    """What of /v1/health/state/any bears on each service of the mesh: its checks and those of its nodes.

    Two equal fingerprints of a service mean that /v1/health/service/NAME has not changed in between.
    """
    of_nodes: dict[str, set[tuple[str, str, int]]] = {}
    of_services: dict[str, set[tuple[str, str, int]]] = {}
    for check in checks:
        fact = (str(check["Node"]), str(check["CheckID"]), int(check["ModifyIndex"]))
        if not check["ServiceName"]:
            of_nodes.setdefault(fact[0], set()).add(fact)
        elif TAG in (check["ServiceTags"] or ()):
            of_services.setdefault(str(check["ServiceName"]), set()).add(fact)
    return {
        name: frozenset(itertools.chain(facts, *(of_nodes.get(node, ()) for node in {fact[0] for fact in facts})))
        for name, facts in of_services.items()
    }


def has_digests(entries: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every change of these instances shows in their checks: they were registered by this module."""
    return all(any(check["Notes"].startswith(f"{TAG} ") for check in entry["Checks"]) for entry in entries)


def is_service_name(name: str) -> bool:
    """Whether a name from Consul can be a service of the mesh."""
    try:
        check_service_name(name)
    except InvalidInput:
        return False
    return True


def _parse_instance(service: str, entry: Mapping[str, Any]) -> Instance:
    found, checks = entry["Service"], entry["Checks"]
    meta: Mapping[str, str] = found["Meta"] or {}
    kind = meta.get("kind", "")
    failed = [check for check in checks if check["Status"] not in _HEALTHY]
    return Instance(
        service=service,
        id=str(found["ID"]),
        address=str(found["Address"] or entry["Node"]["Address"]),
        port=int(found["Port"]),
        kind=kind if kind in KINDS else "service",
        version=meta.get("version", ""),
        protocol=meta.get("protocol", "") or "grpc",
        capabilities=_unpack(meta),
        metadata={
            key.removeprefix(_OWN_PREFIX): value for key, value in sorted(meta.items()) if key.startswith(_OWN_PREFIX)
        },
        is_healthy=not failed,
        health_output="; ".join(str(check["Output"]).strip() or str(check["Status"]) for check in failed)[:MAX_OUTPUT],
    )


def _pack(capabilities: tuple[str, ...]) -> list[str]:
    """Join names with commas into as few texts of at most MAX_VALUE_BYTES as their order allows."""
    texts: list[str] = []
    for name in sorted(set(capabilities)):
        if not name or "," in name or len(name.encode()) > MAX_VALUE_BYTES:
            raise InvalidInput(
                f"{name[:80]!r} cannot be the name of a capability.",
                field="capabilities",
                fix=f"Use a name without commas, of 1 to {MAX_VALUE_BYTES} bytes.",
            )
        if texts and len(texts[-1].encode()) + 1 + len(name.encode()) <= MAX_VALUE_BYTES:
            texts[-1] += f",{name}"
        else:
            texts.append(name)
    return texts


def _unpack(meta: Mapping[str, str]) -> tuple[str, ...]:
    keys = itertools.takewhile(meta.__contains__, (_numbered("capabilities", n) for n in itertools.count(1)))
    return tuple(sorted(name for key in keys for name in meta[key].split(",") if name))


def _numbered(key: str, number: int) -> str:
    return key if number == 1 else f"{key}-{number}"


def _check_pair(key: str, value: str) -> None:
    if len(key) > MAX_KEY_LENGTH or _KEY.fullmatch(key) is None:
        raise InvalidInput(
            f"{key[:80]!r} cannot be a key of metadata in Consul.",
            field="metadata",
            fix=f"Use letters, digits, dashes and underscores, at most {MAX_KEY_LENGTH - len(_OWN_PREFIX)}.",
        )
    if len(value.encode()) > MAX_VALUE_BYTES:
        raise InvalidInput(
            f"The value of {key} has {len(value.encode())} bytes, Consul takes {MAX_VALUE_BYTES}.",
            field="metadata" if key.startswith(_OWN_PREFIX) else key,
            fix="Shorten it.",
        )


def _digest(instance: Instance) -> str:
    facts = [instance.service, instance.address, instance.port, build_tags(instance), build_meta(instance)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
