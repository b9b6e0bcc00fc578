"""Which of the limits that all gateways share a call counts for, and under which values."""

from collections.abc import Mapping

from mesh.access import Principal, Target
from mesh.access.rules import fits_method
from mesh.config.document.edge import Limit


def limits_of(
    limits: Mapping[str, Limit], principal: Principal, target: Target, client: str
) -> dict[str, dict[str, str]]:
    """The values of what each limit is per, by its name; limits that the call does not count for are left out."""
    found: dict[str, dict[str, str]] = {}
    for name, limit in limits.items():
        if limit.scope == "global" and _counts(limit, target):
            values = {
                "client": client,
                "principal": str(principal) if principal.kind != "anonymous" else f"anonymous:{client}",
                "service": target.service,
                "method": target.method,
                "tool": target.tool or "-",
            }
            found[name] = {per: values[per] for per in limit.per}
    return found


def _counts(limit: Limit, target: Target) -> bool:
    return (
        ("*" in limit.services or target.service in limit.services)
        and fits_method(limit.methods, target.method)
        and ("*" in limit.tools or target.tool in limit.tools)
    )
