"""Canaries: a new version of a service taken into use step by step, and given up by itself when it does worse.

    CanaryService ──> CanaryBook <── CanaryController ──split of the mesh document──> proxies
                     (kept, shared)          └── judge <── load reports

plan < record < book; judge; controller and servicer use them, desk wires them. Every control plane answers
CanaryService; the leader's controller acts.
"""

from services.control_plane.canary.desk import CanaryDesk, open_canaries

__all__ = ["CanaryDesk", "open_canaries"]
