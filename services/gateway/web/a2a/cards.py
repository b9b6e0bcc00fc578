"""Cards of agents, as A2A writes them."""

from collections.abc import Callable, Iterable

from a2a.types import a2a_pb2 as a2a

from agentmesh.agent.v1 import agent_pb2 as pb

VERSION = "1.0"
SKILL_EXTENSION = "urn:agentmesh:a2a:skill"
"""Messages may name the skill that they are for, under the key "skill" of their metadata."""


def build_card(card: pb.AgentCard, base_url: str, may_call: Callable[[str], bool]) -> a2a.AgentCard:
    """The card with those skills that a caller may call. `base_url` is that of the edge, without a slash at the end."""
    url = f"{base_url}/agents/{card.name}"
    skills = [_skill(skill) for skill in card.skills if may_call(skill.id)]
    made = a2a.AgentCard(
        name=card.name,
        description=card.description or card.name,
        version=card.version,
        supported_interfaces=[
            a2a.AgentInterface(url=f"{url}/", protocol_binding="JSONRPC", protocol_version=VERSION),
            a2a.AgentInterface(url=url, protocol_binding="HTTP+JSON", protocol_version=VERSION),
            # The tenant tells the agents of one address apart.
            a2a.AgentInterface(
                url=base_url.partition("://")[2], protocol_binding="GRPC", protocol_version=VERSION, tenant=card.name
            ),
        ],
        capabilities=a2a.AgentCapabilities(
            streaming=True,
            push_notifications=True,
            extended_agent_card=True,
            extensions=[
                a2a.AgentExtension(
                    uri=SKILL_EXTENSION,
                    description='The key "skill" in the metadata of a message names the skill that it is for.',
                )
            ],
        ),
        default_input_modes=_modes(mode for skill in card.skills for mode in skill.input_modes),
        default_output_modes=_modes(mode for skill in card.skills for mode in skill.output_modes),
        skills=skills,
    )
    bearer = a2a.HTTPAuthSecurityScheme(scheme="Bearer", bearer_format="JWT")
    key = a2a.APIKeySecurityScheme(location="header", name="x-api-key")
    made.security_schemes["bearer"].http_auth_security_scheme.CopyFrom(bearer)
    made.security_schemes["key"].api_key_security_scheme.CopyFrom(key)
    for name in ("bearer", "key"):
        made.security_requirements.add().schemes[name].SetInParent()
    return made


def _skill(skill: pb.Skill) -> a2a.AgentSkill:
    return a2a.AgentSkill(
        id=skill.id,
        name=skill.name or skill.id,
        description=skill.description or skill.id,
        # A2A wants at least one.
        tags=skill.tags or ["agentmesh"],
        input_modes=skill.input_modes,
        output_modes=skill.output_modes,
    )


def _modes(modes: Iterable[str]) -> list[str]:
    return sorted(set(modes)) or ["application/json"]
