"""Who may do what with which agent. The guard lets all of A2A pass: which skill is called stands in the message."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agentmesh.agent.v1 import agent_pb2
from agentmesh.agent.v1 import agent_service_pb2 as pb
from mesh.access import Decision, Principal, Target, decide, may_see
from mesh.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from services.gateway.guard.admission import bound_elsewhere
from services.gateway.guard.credentials import renew_principal
from services.gateway.guard.notes import Noted
from services.gateway.guard.view import AccessView
from services.gateway.knowledge import Knowledge
from services.gateway.web.caller import Caller

SERVICE = "agentmesh.agent.v1.AgentService"


@dataclass(frozen=True, slots=True)
class Asked:
    """Which agent is asked, and by whom. `base_url` is that of the edge as the caller has written it."""

    agent: str
    caller: Caller
    base_url: str = ""


class Gate:
    """Decides by the newest rules; `note` writes the audit. All raise Unavailable while there are no rules."""

    def __init__(self, knowledge: Knowledge, note: Callable[[Noted], None]) -> None:
        self._knowledge = knowledge
        self._note = note

    def check_visible(self, asked: Asked) -> None:
        """Raise Unauthenticated or NotFound for an agent that the caller may call nothing of, or that there is not.

        Nobody is told which of the two it is.
        """
        principal = asked.caller.principal
        is_visible = may_see(self._view.rules, principal, asked.agent)
        if is_visible and self.instances(asked.agent) is not None:
            return
        if principal.kind == "anonymous" and not is_visible:
            raise Unauthenticated(
                "This needs a credential: a token or an API key.",
                reason="NOT_AUTHENTICATED",
                fix="Get a token with `meshctl login` or at /oauth2/token, or send an API key in x-api-key.",
            )
        raise NotFound(
            f"There is no agent {asked.agent[:80]!r} that you may call.",
            reason="UNKNOWN_AGENT",
            fix="/v1/services has those that there are.",
        )

    def check_skill(self, asked: Asked, skill: str, *, is_mcp: bool = False) -> None:
        """Raise Unauthenticated or PermissionDenied when the caller may not give tasks to a skill.

        `is_mcp` tells that it is called as a tool, where all rules about tools are kept.
        """
        target = Target(asked.agent, f"{SERVICE}/SubmitTask", skill=skill)
        decision = self._decide(asked, target)
        elsewhere = None if is_mcp else bound_elsewhere(self._view, asked.caller.principal, target)
        if decision.is_allowed and elsewhere is not None:
            self._tell(asked, target, replace(decision, is_allowed=False, reason=elsewhere.reason))
            raise elsewhere
        self._tell(asked, target, decision)
        _require(decision)

    def check_own(self, asked: Asked, method: str, skill: str) -> None:
        """Raise when the caller may not call a method for a task of its own.

        Who may give tasks to the skill may also look after them, if no rule denies it.
        """
        target = Target(asked.agent, f"{SERVICE}/{method}")
        decision = self._decide(asked, target)
        if not decision.is_allowed and decision.reason != "DENIED_BY_RULE":
            by_skill = self._decide(asked, Target(asked.agent, f"{SERVICE}/SubmitTask", skill=skill))
            decision = by_skill if by_skill.is_allowed else decision
        self._tell(asked, target, decision)
        _require(decision)

    def allowed(self, asked: Asked, tasks: Sequence[agent_pb2.Task]) -> Sequence[agent_pb2.Task]:
        """Those of the caller's tasks that it may list; raises PermissionDenied when a rule denies it to list any."""
        decision = self._decide(asked, Target(asked.agent, f"{SERVICE}/ListTasks"))
        if decision.is_allowed:
            return tasks
        if decision.reason == "DENIED_BY_RULE":
            _require(decision)
        return [task for task in tasks if self.may_call(asked, task.skill_id)]

    def may_call(self, asked: Asked, skill: str) -> bool:
        """Whether the caller may give tasks to a skill."""
        return self._decide(asked, Target(asked.agent, f"{SERVICE}/SubmitTask", skill=skill)).is_allowed

    def inspect(self, asked: Asked, request: pb.SubmitTaskRequest) -> None:
        """Raise PermissionDenied for what the firewall blocks: the guard has not seen what is in the message."""
        parts = [part.text.encode() if part.text else part.json for part in request.input]
        finding = self._view.firewall.inspect("", {}, b"\n".join(parts))
        if finding is None:
            return
        target = Target(asked.agent, f"{SERVICE}/SubmitTask", skill=request.skill_id)
        word = "blocked" if finding.blocks else "allowed"
        self._tell(asked, target, Decision(not finding.blocks, "FIREWALL", "", rule=finding.rule), word)
        if finding.blocks:
            raise PermissionDenied(
                f"The request fits the firewall rule {finding.rule}.",
                reason="FIREWALL",
                field="message.parts",
                fix="Send it without what looks like an attack, or ask the operator to change the rule.",
            )

    def with_roles(self, principal: Principal) -> tuple[str, ...]:
        """All roles of a principal, those by bindings, too."""
        return self._view.rules.roles_of(principal)

    def renew(self, principal: Principal) -> Principal:
        """Who has shown a credential before, with the roles of now; raises Unauthenticated when it counts no more."""
        return renew_principal(self._view, principal)

    def instances(self, agent: str) -> int | None:
        """How many instances of an agent are well; None when there is no such agent."""
        for service in self._knowledge.mesh.services:
            if service.name == agent and service.kind == "agent":
                return sum(instance.healthy for instance in service.instances)
        return None

    @property
    def _view(self) -> AccessView:
        view = self._knowledge.view
        if view is None:
            raise Unavailable("The gateway does not know yet who may call what.", reason="GATEWAY_STARTING")
        return view

    def _decide(self, asked: Asked, target: Target) -> Decision:
        return decide(self._view.rules, asked.caller.principal, target)

    def _tell(self, asked: Asked, target: Target, decision: Decision, word: str = "") -> None:
        caller = asked.caller
        self._note(
            Noted(
                caller.principal,
                target,
                word or ("allowed" if decision.is_allowed else "refused"),
                decision.reason,
                decision.rule,
                "a2a",
                caller.client,
                caller.correlation_id,
            )
        )


def _require(decision: Decision) -> None:
    if not decision.is_allowed:
        kind = Unauthenticated if decision.reason == "NOT_AUTHENTICATED" else PermissionDenied
        raise kind(decision.summary, reason=decision.reason, fix="Ask an operator for a role that allows it.")
