"""Which skill a message is for. A2A has no word for that, so the message may say it in its metadata."""

from a2a.types import a2a_pb2 as a2a

from agentmesh.agent.v1 import agent_pb2 as pb
from mesh.errors import InvalidInput, PermissionDenied
from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.gate import Asked, Gate

_KEY = "skill"
_ANY = "*/*"
_MODES = {"text": ("text/plain", "application/json"), "data": ("application/json",)}


async def choose_skill(agents: Agents, gate: Gate, asked: Asked, params: a2a.SendMessageRequest) -> str:
    """The id of the skill: the one that is named, else the only one that the caller may call and that fits.

    Raises InvalidInput when it cannot be told, with the skills that there are; PermissionDenied when there is none.
    """
    for metadata in (params.message.metadata, params.metadata):
        if _KEY in metadata.fields:
            named = metadata.fields[_KEY].string_value
            if not named:
                raise InvalidInput("It names no skill.", field=f"message.metadata.{_KEY}", fix="Send a skill's id.")
            return named
    card = await agents.card(asked)
    callable_skills = [skill for skill in card.skills if gate.may_call(asked, skill.id)]
    if not callable_skills:
        raise PermissionDenied(f"You may call no skill of {asked.agent}.", reason="NO_RULE")
    fitting = [skill for skill in callable_skills if _fits(skill, params.message)]
    for found in (callable_skills, fitting):
        if len(found) == 1:
            return found[0].id
    raise InvalidInput(
        "The message does not say which skill it is for.",
        reason="NO_SKILL_NAMED",
        field=f"message.metadata.{_KEY}",
        fix=f"Put one of these there: {', '.join(skill.id for skill in callable_skills)}.",
    )


def _fits(skill: pb.Skill, message: a2a.Message) -> bool:
    """Whether the skill takes the kinds of parts that the message has."""
    if _ANY in skill.input_modes or not skill.input_modes:
        return True
    for part in message.parts:
        modes = (part.media_type,) if part.media_type else _MODES.get(part.WhichOneof("content") or "", ())
        if not any(mode in skill.input_modes for mode in modes):
            return False
    return True
