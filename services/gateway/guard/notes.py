"""What the audit is told about calls."""

from collections.abc import Callable
from dataclasses import dataclass

from mesh.access import Principal, Target
from mesh.access.audit import AuditLog
from mesh.config.document.access import Audit


@dataclass(frozen=True, slots=True)
class Noted:
    """One decision. `principal` is None where it could not be told; `decision` is allowed, refused or blocked."""

    principal: Principal | None
    target: Target
    decision: str
    reason: str
    rule: str
    door: str
    client: str
    correlation_id: str


class Notes:
    """Writes decisions into the audit, as much of them as its policy asks for."""

    def __init__(self, audit: AuditLog, policy: Callable[[], Audit]) -> None:
        self._audit = audit
        self._policy = policy

    def note(self, noted: Noted) -> None:
        """Take a decision; cheap, and written in the background."""
        if noted.decision == "allowed" and not self._policy().reads and noted.reason != "FIREWALL":
            return
        target = noted.target
        self._audit.note(
            {
                "who": str(noted.principal) if noted.principal is not None else "unknown",
                "decision": noted.decision,
                "reason": noted.reason,
                "rule": noted.rule,
                "service": target.service,
                "method": target.method,
                "tool": target.tool,
                "skill": target.skill,
                "door": noted.door,
                "client": noted.client,
                "correlation_id": noted.correlation_id,
            }
        )
