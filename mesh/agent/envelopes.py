"""What the payloads of envelopes say."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mesh.agent.part import JSON, TEXT, Part
from mesh.agent.skill import Skill
from mesh.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """The payload of a TASK_REQUEST."""

    skill: str
    input: Part


def parse_task_request(payload: bytes) -> TaskRequest:
    """Read {"skill", "input"}; text stays text, everything else JSON. Raises InvalidInput."""
    value = _parse_object(payload, '{"skill": NAME, "input": VALUE}')
    skill, given = value.get("skill"), value.get("input")
    if not isinstance(skill, str) or not skill:
        raise InvalidInput("It is not said which skill shall do the work.", field="payload.skill")
    if isinstance(given, str):
        return TaskRequest(skill, Part("text", given.encode(errors="replace"), TEXT))
    return TaskRequest(skill, Part("json", json.dumps(given, separators=(",", ":")).encode(), JSON))


def parse_capability_query(payload: bytes) -> set[str]:
    """The tags that a skill must all have; none for an empty payload. Raises InvalidInput."""
    if not payload:
        return set()
    tags = _parse_object(payload, '{"tags": [...]}').get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidInput("The tags are not a list of texts.", field="payload.tags", fix='Send {"tags": ["..."]}.')
    return set(tags)


def task_output(parts: Sequence[Part]) -> bytes:
    """The payload of a TASK_RESPONSE: the one output, a list when there are several, null when there is none."""
    if len(parts) == 1 and parts[0].kind == "json":
        return parts[0].content
    values = [_to_json(part) for part in parts]
    return b"[" + b",".join(values) + b"]" if len(values) > 1 else values[0] if values else b"null"


def skill_to_json(skill: Skill) -> dict[str, Any]:
    """A skill under the names of the contract."""
    return {
        "id": skill.id,
        "name": skill.name,
        "description": skill.description,
        "tags": list(skill.tags),
        "input_modes": list(skill.input_modes),
        "output_modes": list(skill.output_modes),
        "input_schema": json.loads(skill.input_schema) if skill.input_schema else None,
        "output_schema": json.loads(skill.output_schema) if skill.output_schema else None,
    }


def _to_json(part: Part) -> bytes:
    if part.kind == "json":
        return part.content
    if part.kind == "text":
        return json.dumps(part.value).encode()
    data = base64.b64encode(part.content).decode()
    return json.dumps({"media_type": part.media_type, "data": data}).encode()


def _parse_object(payload: bytes, form: str) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as err:
        raise InvalidInput("The payload is not JSON.", field="payload", fix=f"Send {form}.") from err
    if not isinstance(value, dict):
        raise InvalidInput("The payload is not a JSON object.", field="payload", fix=f"Send {form}.")
    return value
