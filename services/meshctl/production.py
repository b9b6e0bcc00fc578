"""`meshctl doctor --production`: whether a running mesh is set up for strangers."""

import json
import time
from collections.abc import Iterator

import yaml

from agentmesh.access.v1 import access_service_pb2 as pb
from agentmesh.config.v1 import config_service_pb2, config_service_pb2_grpc
from mesh.access.audit_chain import verify
from mesh.access.audit_files import audit_files
from mesh.config import MeshSettings
from mesh.config.document import MeshDocument
from mesh.errors import MeshError
from services.meshctl.connection import TIMEOUT, open_admin
from services.meshctl.finding import Finding
from services.meshctl.keys import open_access

_LONGEST_TOKEN = 3600.0


async def look_at_production(settings: MeshSettings) -> list[Finding]:
    """Everything that an operator must set before strangers come; a mesh must run."""
    try:
        async with open_admin(settings) as channel:
            stub = config_service_pb2_grpc.ConfigServiceStub(channel)
            found = await stub.GetDocument(config_service_pb2.GetDocumentRequest(), timeout=TIMEOUT)
        async with open_access(settings) as access:
            keys = list((await access.ListKeys(pb.ListKeysRequest(), timeout=TIMEOUT)).keys)
            signing = list((await access.ListSigningKeys(pb.ListSigningKeysRequest(), timeout=TIMEOUT)).keys)
    except MeshError as err:
        return [Finding("production", False, err.summary, err.fix)]
    document = MeshDocument.model_validate_json(json.dumps(yaml.safe_load(found.document) or {}))
    now = time.time()
    endless = [key.id for key in keys if not key.HasField("expire_time") and not key.HasField("revoke_time")]
    oldest = max((now - key.create_time.seconds for key in signing if key.signs), default=0.0)
    key_life = document.access.tokens.key_lifetime.total_seconds()
    return [
        *look_at_settings(settings),
        *look_at_document(document),
        Finding(
            "API keys",
            not endless,
            f"{len(keys)} keys, {len(endless)} of them without an end",
            f"Replace {endless[0]}: `meshctl keys create --expires 90d`, then revoke it." if endless else "",
        ),
        Finding(
            "token keys",
            oldest < key_life,
            f"the one that signs is {oldest / 86400:.0f} days old",
            "" if oldest < key_life else "`meshctl token-keys rotate`",
        ),
        look_at_audit(settings),
    ]


def look_at_settings(settings: MeshSettings) -> Iterator[Finding]:
    """What is said by environment variables."""
    yield Finding(
        "environment",
        settings.is_production,
        settings.environment,
        "" if settings.is_production else "Set MESH_ENVIRONMENT=production.",
    )
    has_own = settings.edge_certificate is not None
    yield Finding(
        "certificate of the edge",
        has_own,
        str(settings.edge_certificate) if has_own else "one of its own, for development",
        "" if has_own else "Set MESH_EDGE_CERTIFICATE and MESH_EDGE_KEY.",
    )
    is_shared = not settings.cache_url.startswith("memory:")
    yield Finding(
        "shared limits",
        is_shared,
        "counted for all gateways together" if is_shared else "each gateway counts by itself",
        "" if is_shared else "Set MESH_CACHE_URL to a Valkey or Redis, or leave it out.",
    )


def look_at_document(document: MeshDocument) -> Iterator[Finding]:
    """What the mesh document in force says."""
    edge, access = document.edge, document.access
    is_denied = document.mesh.default_intention == "deny"
    yield _claim("intentions", is_denied, "denied unless allowed", "mesh.default_intention: deny")
    yield _claim("door without TLS", not edge.plaintext, "closed", "edge.plaintext: false")
    open_to_all = sorted(name for name, binding in access.bindings.items() if binding.anonymous)
    yield Finding(
        "anonymous callers",
        not open_to_all,
        f"have roles by {', '.join(open_to_all)}" if open_to_all else "have no role",
        f"Take it away: access.bindings.{open_to_all[0]}: null" if open_to_all else "",
    )
    is_blocking = edge.firewall.enabled and edge.firewall.mode == "block" and bool(edge.firewall.rules)
    yield _claim("firewall", is_blocking, f"{len(edge.firewall.rules)} rules", "edge.firewall.mode: block")
    limits = edge.limits.values()
    per_principal = any(limit.scope == "global" and "principal" in limit.per for limit in limits)
    yield _claim("limit per principal", per_principal, "there is one", "edge.limits: one of scope global")
    per_client = any(limit.scope == "local" for limit in limits)
    yield _claim("limit per client", per_client, "there is one", "edge.limits: one of scope local")
    yield _claim("CORS", "*" not in edge.cors.origins, "origins are named", "edge.cors.origins: exact ones, not *")
    yield _claim("audit of what is allowed", access.audit.reads, "on", "access.audit.reads: true")
    life = access.tokens.access_lifetime.total_seconds()
    yield _claim("life of tokens", life <= _LONGEST_TOKEN, f"{life:g} s", "access.tokens.access_lifetime: at most 1h")


def look_at_audit(settings: MeshSettings) -> Finding:
    """Whether the log of decisions is whole."""
    folders = [path for path in sorted((settings.state_dir / "audit").glob("*")) if path.is_dir() and audit_files(path)]
    if not folders:
        return Finding("audit", False, "there is none yet", "Make a call, and look again.")
    for folder in folders:
        report = verify(folder)
        if not report.is_good:
            found = f"{folder.name} is broken at {report.where}: {report.broken}"
            return Finding("audit", False, found, "Find out who has changed it.")
    return Finding("audit", True, f"{len(folders)} chains are whole")


def _claim(what: str, is_well: bool, good: str, setting: str) -> Finding:
    return Finding(what, is_well, good if is_well else "not so", "" if is_well else f"Apply {setting}")
