"""An agent of the mesh whose skills are those of an agent elsewhere."""

import re
from collections import OrderedDict
from collections.abc import Container

from a2a.client import Client
from a2a.types import a2a_pb2 as a2a

from mesh.agent import Agent, AgentLimits, Part, TaskContext
from services.a2a_bridge.relay import Relay

_ONLY_SKILL = "message"
_SEMANTIC = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?")
_NO_LETTER = re.compile(r"[^a-z0-9._-]+")
_LONGEST = 64
_MOST_CONTEXTS = 4096
_LIMITS = AgentLimits(max_concurrent_tasks=64, max_queued_tasks=192, max_task_seconds=24 * 3600.0)


class Contexts:
    """Which group of tasks of the mesh is which context at the other agent: both make the ids of their own."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, str] = OrderedDict()

    def find(self, ours: str) -> str:
        """Theirs, "" when there is none yet."""
        return self._known.get(ours, "")

    def note(self, ours: str, theirs: str) -> None:
        """Note theirs; the oldest is forgotten when there are too many."""
        self._known[ours] = theirs
        self._known.move_to_end(ours)
        if len(self._known) > _MOST_CONTEXTS:
            self._known.popitem(last=False)


def build_agent(service: str, card: a2a.AgentCard, client: Client) -> Agent:
    """The agent, with a skill for each one of the card; one that takes everything when the card has none."""
    version = card.version if _SEMANTIC.fullmatch(card.version) else "0.0.0"
    agent = Agent(name=service, version=version, description=card.description or card.name, limits=_LIMITS)
    contexts = Contexts()
    for skill in card.skills or [a2a.AgentSkill(id=_ONLY_SKILL, name="Message", description=card.description)]:
        _add_skill(agent, skill, client, contexts)
    return agent


def _add_skill(agent: Agent, skill: a2a.AgentSkill, client: Client, contexts: Contexts) -> None:
    identifier = _identifier(skill.id, agent.skills)

    async def relay(input: list[Part], task: TaskContext) -> None:  # noqa: A002 - the word of the contract
        await Relay(client, contexts, task, skill.id).run(input)

    agent.skill(
        id=identifier,
        name=skill.name,
        description=skill.description or skill.name or identifier,
        tags=list(skill.tags),
        output_modes=list(skill.output_modes) or ["*/*"],
    )(relay)


def _identifier(text: str, taken: Container[str]) -> str:
    """The id as the mesh writes ids: lower case, and unique."""
    made = _NO_LETTER.sub("-", text.lower()).strip("-._")[: _LONGEST - 4].strip("-._") or "skill"
    names = (made, *(f"{made}-{number}" for number in range(2, 1000)))
    return next(name for name in names if name not in taken)
