"""One caller, and what it may see: by the newest rules, however long ago it has come."""

import time
from bisect import bisect_left
from collections.abc import Callable

from agentmesh.control.v1 import control_pb2
from mesh.access import AccessRules, Principal, Target, decide, may_see
from mesh.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from services.gateway.guard.credentials import renew_principal
from services.gateway.guard.view import AccessView
from services.gateway.knowledge import Knowledge

_FIX = "Ask an operator for a role that allows it; `meshctl can-i` tells what is allowed."


class Viewer:
    """Made when the caller comes, as the guard has let it in at that moment."""

    def __init__(self, knowledge: Knowledge, principal: Principal, *, clock: Callable[[], float] = time.time) -> None:
        self._knowledge = knowledge
        self._principal = principal
        self._clock = clock
        self._first_view = knowledge.view

    def principal(self) -> Principal:
        """The caller with the roles of now. Raises Unauthenticated when its credential counts no more."""
        view = self._view()
        renewed = renew_principal(view, self._principal, clock=self._clock)
        # Those of the first view have been found out by the guard, who knows the claims that some of them come from.
        return self._principal if view is self._first_view else renewed

    def check(self, target: Target) -> None:
        """Raises PermissionDenied or Unauthenticated unless the caller may call a target."""
        decision = decide(self._view().rules, self.principal(), target)
        if decision.is_allowed:
            return
        refused = Unauthenticated if decision.reason == "NOT_AUTHENTICATED" else PermissionDenied
        raise refused(decision.summary, reason=decision.reason, fix=_FIX)

    def services(self, kind: str = "") -> list[control_pb2.Service]:
        """The services, of one kind or of all, that the caller may call anything of, sorted by name."""
        rules, principal = self._view().rules, self.principal()
        return [
            _shown(rules, principal, service)
            for service in self._knowledge.mesh.services
            if (not kind or service.kind == kind) and may_see(rules, principal, service.name)
        ]

    def service(self, name: str) -> control_pb2.Service:
        """One of them. Raises NotFound, too, when there is one that the caller may not call anything of."""
        rules, principal = self._view().rules, self.principal()
        services = self._knowledge.mesh.services
        place = bisect_left(services, name, key=lambda service: service.name)
        if place < len(services) and services[place].name == name and may_see(rules, principal, name):
            return _shown(rules, principal, services[place])
        raise NotFound(
            f"There is no service {name[:80]!r} that you may call.",
            reason="UNKNOWN_SERVICE",
            field="name",
            fix="The list of services has those that there are.",
        )

    def sees(self, service: str) -> bool:
        """Whether the caller may know that there is a service."""
        return may_see(self._view().rules, self.principal(), service)

    def _view(self) -> AccessView:
        view = self._knowledge.view
        if view is None:
            raise Unavailable("The gateway does not know yet who may call what.", reason="GATEWAY_STARTING")
        return view


def _shown(rules: AccessRules, principal: Principal, service: control_pb2.Service) -> control_pb2.Service:
    """Without what is of use inside of the mesh only, and without the names of services that are not to be seen."""
    shown = control_pb2.Service()
    shown.CopyFrom(service)
    for instance in shown.instances:
        instance.ClearField("address")
        instance.ClearField("port")
    shown.upstreams[:] = [it for it in service.upstreams if it == "*" or may_see(rules, principal, it)]
    return shown
