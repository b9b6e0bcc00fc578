"""Who comes in from outside, and what they may do there.

    credential ──> Principal ─┐
    request ─────> Target ────┴──> decide(rules of the mesh document) ──> Decision ──> audit

May import config and below, and the rooms beside these.
"""

from mesh.access.decision import Decision, decide, may_see
from mesh.access.principal import ANONYMOUS, Principal
from mesh.access.rules import AccessRules
from mesh.access.target import GATEWAY, Target

__all__ = ["ANONYMOUS", "GATEWAY", "AccessRules", "Decision", "Principal", "Target", "decide", "may_see"]
