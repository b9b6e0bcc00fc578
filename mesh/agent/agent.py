"""An agent as its author writes it: a name, skills, limits."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from mesh.agent.limits import AgentLimits
from mesh.agent.skill import Skill, build_skill
from mesh.errors import AlreadyExists, InvalidInput
from mesh.model import check_service_name

_VERSION = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?")
_F = TypeVar("_F", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True, slots=True)
class Coordination:
    """A message of a coordination protocol between agents.

    `caller` is the SPIFFE id of the sender's certificate, or ""; `sender` is only what it calls itself.
    """

    id: str
    payload: bytes
    correlation_id: str
    sender: str
    caller: str


CoordinationHandler = Callable[[Coordination], Awaitable[bytes | None]]


class Agent:
    """An agent: what it is called, what it can do, and what it accepts at most."""

    def __init__(self, *, name: str, version: str, description: str, limits: AgentLimits | None = None) -> None:
        """Raises InvalidInput for what is no service name or no semantic version."""
        check_service_name(name, field="name")
        if _VERSION.fullmatch(version) is None:
            raise InvalidInput(f"{version!r} is not a version.", field="version", fix='Write it as "1.2.3".')
        self.name = name
        self.version = version
        self.description = description
        self.limits = limits or AgentLimits()
        self._skills: dict[str, Skill] = {}
        self._coordination: CoordinationHandler | None = None

    @property
    def skills(self) -> Mapping[str, Skill]:
        """The skills by id, sorted."""
        return MappingProxyType(dict(sorted(self._skills.items())))

    @property
    def coordination_handler(self) -> CoordinationHandler | None:
        """Who takes COORDINATION envelopes."""
        return self._coordination

    def skill(
        self,
        *,
        id: str,  # noqa: A002 - the word of the contract
        name: str = "",
        description: str = "",
        tags: Sequence[str] = (),
        input_schema: Any = None,
        output_schema: Any = None,
        output_modes: Sequence[str] = (),
    ) -> Callable[[_F], _F]:
        """Make `async def handler(input, task: TaskContext)` a skill.

        The type of `input` is what the skill takes (see `mesh.agent.skill`), the return type what it gives; the types
        `input_schema` and `output_schema` stand in for missing annotations. The description is by default the
        docstring. What the handler returns becomes the task's output. Raises AlreadyExists for an id that is taken.
        """

        def add(handler: _F) -> _F:
            if id in self._skills:
                raise AlreadyExists(f"The agent {self.name} has a skill {id!r} already.", field="id")
            self._skills[id] = build_skill(
                handler,
                id=id,
                name=name,
                description=description,
                tags=tags,
                input_schema=input_schema,
                output_schema=output_schema,
                output_modes=output_modes,
            )
            return handler

        return add

    def coordination(self, handler: CoordinationHandler) -> CoordinationHandler:
        """Let `async def handler(message: Coordination) -> bytes | None` take COORDINATION envelopes of a conversation.

        What it returns is sent back as the answer; None sends nothing.
        """
        self._coordination = handler
        return handler
