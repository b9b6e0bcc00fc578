"""May this principal call that? One function decides: at the edge, in the doors of the gateway, for operators."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and why, in a sentence for people. `role` and `rule` say which rule it was, "" when none was.

    `reason` is stable and in UPPER_SNAKE_CASE: ALLOWED, DENIED_BY_RULE, NO_RULE, NOT_AUTHENTICATED.
    """

    is_allowed: bool
    reason: str
    summary: str
    role: str = ""
    rule: str = ""
