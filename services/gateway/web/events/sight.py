"""What one caller may see of what happens: asked anew whenever the rules or the credentials have changed."""

import time
from collections.abc import Callable
from dataclasses import replace

from mesh.access import GATEWAY, Principal, Target, decide, may_see
from mesh.errors import Unauthenticated
from services.gateway.guard.credentials import renew_principal
from services.gateway.guard.view import AccessView
from services.gateway.knowledge import Knowledge
from services.gateway.web.caller import Caller
from services.gateway.web.events.event import TASK_CHANGED, TASK_MISSED, Ending, Event

_WATCH_TASKS = "agentmesh.agent.v1.AgentService/WatchTasks"
_POLICY = 1008


class Sight:
    """For one caller at one door, such as "/events"."""

    def __init__(
        self, knowledge: Knowledge, caller: Caller, door: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._knowledge = knowledge
        self._shown = caller.principal
        self._client = caller.client
        self._door = door
        self._clock = clock
        self._by_claims: tuple[str, ...] | None = None
        self._view: AccessView | None = None
        self._principal: Principal | None = None

    @property
    def owner(self) -> str:
        """The principal; the address of those who show none."""
        return f"client:{self._client}" if self._shown.kind == "anonymous" else str(self._shown)

    def sees(self, event: Event) -> bool:
        """Whether the caller may have an event: of tasks who may watch them, of services who may see them."""
        if event.type in (TASK_CHANGED, TASK_MISSED):
            return self._may(Target(event.subject, _WATCH_TASKS))
        return self.sees_service(event.subject) if event.subject else self._now() is not None

    def sees_service(self, service: str) -> bool:
        """Whether the caller may know that there is a service."""
        principal, view = self._now(), self._view
        return principal is not None and view is not None and may_see(view.rules, principal, service)

    def check(self) -> Ending | None:
        """Why the caller may have nothing any more; None when all is well."""
        view = self._knowledge.view
        if view is None:
            return None
        try:
            principal = self._renew(view)
        except Unauthenticated as err:
            return Ending(err.reason, err.summary, _POLICY)
        decision = decide(view.rules, principal, Target(GATEWAY, self._door))
        return None if decision.is_allowed else Ending(decision.reason, decision.summary, _POLICY)

    def _may(self, target: Target) -> bool:
        principal, view = self._now(), self._view
        return principal is not None and view is not None and decide(view.rules, principal, target).is_allowed

    def _now(self) -> Principal | None:
        """The caller with the roles of now; None when it counts no more."""
        view = self._knowledge.view
        if view is not self._view:
            self._view = view
            try:
                self._principal = None if view is None else self._renew(view)
            except Unauthenticated:
                self._principal = None
        return self._principal

    def _renew(self, view: AccessView) -> Principal:
        principal = renew_principal(view, self._shown, clock=self._clock)
        if self._by_claims is None:
            # What nothing else explains comes from the claims of its token, which the guard alone has seen.
            has_claims = principal.kind not in ("anonymous", "service")
            explained = view.rules.roles_of(principal)
            self._by_claims = tuple(role for role in self._shown.roles if has_claims and role not in explained)
        return replace(principal, roles=(*principal.roles, *self._by_claims))
