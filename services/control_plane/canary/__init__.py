"""Canaries: a new version of a service taken into use step by step, and given up by itself when it does worse.

    CanaryService ──> CanaryBook <── CanaryController ──split of the mesh document──> proxies
                     (kept, shared)          └── judge <── load reports

plan < record < book; judge; controller and servicer use them. Every control plane answers CanaryService; the leader's
controller acts.
"""

from services.control_plane.canary.book import CanaryBook
from services.control_plane.canary.controller import CanaryController
from services.control_plane.canary.ports import Document
from services.control_plane.canary.servicer import CanaryServicer

__all__ = ["CanaryBook", "CanaryController", "CanaryServicer", "Document"]
