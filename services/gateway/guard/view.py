"""What decides about calls, ready to be asked: made anew whenever the control plane says something new."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

from agentmesh.access.v1 import access_pb2
from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.access import AccessRules
from mesh.access.firewall import Firewall
from mesh.config.document.access import AccessPolicy
from mesh.config.document.edge import Edge
from mesh.config.document.tools import Tools
from services.gateway.tools.policy import ToolPolicy


@dataclass(frozen=True)
class AccessView:
    """One moment of it."""

    version: str = ""
    access: AccessPolicy = field(default_factory=AccessPolicy)
    rules: AccessRules = field(default_factory=lambda: AccessRules(AccessPolicy()))
    edge: Edge = field(default_factory=Edge)
    tools: ToolPolicy = field(default_factory=lambda: ToolPolicy(Tools()))
    firewall: Firewall = field(default_factory=lambda: Firewall(Edge().firewall))
    keys: Mapping[str, access_pb2.KeyVerifier] = field(default_factory=lambda: MappingProxyType({}))
    users: Mapping[str, access_pb2.User] = field(default_factory=lambda: MappingProxyType({}))
    ended_logins: frozenset[str] = frozenset()

    @classmethod
    def of(cls, told: pb.WatchAccessResponse) -> Self:
        """Read what the control plane has told. Raises ValueError when the document is none."""
        document = json.loads(told.document)
        access = AccessPolicy.model_validate_json(json.dumps(document["access"]))
        edge = Edge.model_validate_json(json.dumps(document["edge"]))
        return cls(
            version=told.version,
            access=access,
            rules=AccessRules(access),
            edge=edge,
            # A snapshot of before there was this part has none.
            tools=ToolPolicy(Tools.model_validate_json(json.dumps(document.get("tools", {})))),
            firewall=Firewall(edge.firewall),
            keys={key.id: key for key in told.keys},
            users={user.name: user for user in told.users},
            ended_logins=frozenset(told.ended_logins),
        )
