"""What an author may write, and what is refused at once."""

import pytest
from pydantic import BaseModel

from mesh.agent import Agent, AgentLimits, Part, TaskContext
from mesh.errors import AlreadyExists, Internal, InvalidInput


class Given(BaseModel):
    name: str


def make():
    return Agent(name="greeter", version="1.0.0", description="Greets.")


def test_a_skill_describes_itself_by_its_annotations():
    agent = make()

    @agent.skill(id="greet", tags=["b", "a", "b"])
    async def greet(given: Given, task: TaskContext) -> str:
        """Greets somebody."""
        return f"Hello {given.name}"

    skill = agent.skills["greet"]
    assert (skill.description, skill.tags) == ("Greets somebody.", ("a", "b"))
    assert (skill.input_modes, skill.output_modes) == (("application/json",), ("text/plain",))
    assert b'"name"' in skill.input_schema
    assert skill.parse_input([Part.of({"name": "Ada"})]) == Given(name="Ada")


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([], "input"),
        ([Part.of({"name": "a"}), Part.of({"name": "b"})], "input"),
        ([Part.of({})], "input.name"),
        ([Part.of({"name": 1})], "input.name"),
        ([Part.of("no json")], "input"),
        ([Part.of(b"bytes")], "input"),
    ],
)
def test_input_that_does_not_fit_is_refused_with_its_field(parts, field):
    agent = make()

    @agent.skill(id="greet")
    async def greet(given: Given, task: TaskContext) -> str:
        return given.name

    with pytest.raises(InvalidInput) as caught:
        agent.skills["greet"].parse_input(parts)
    assert caught.value.field == field


def test_a_skill_id_is_taken_once():
    agent = make()

    async def handler(text: str, task: TaskContext) -> None: ...

    agent.skill(id="one")(handler)
    with pytest.raises(AlreadyExists):
        agent.skill(id="one")(handler)


def test_what_can_be_no_skill_is_refused():
    agent = make()

    async def bare(text, task): ...

    async def short(text: str): ...

    def blocking(text: str, task: TaskContext): ...

    for handler in (bare, short, blocking):
        with pytest.raises(InvalidInput):
            agent.skill(id="x")(handler)
    with pytest.raises(InvalidInput):
        agent.skill(id="Not An Id")(bare)


@pytest.mark.parametrize("facts", [{"name": "Not A Name"}, {"version": "one"}])
def test_a_name_and_a_version_are_checked(facts):
    with pytest.raises(InvalidInput) as caught:
        Agent(**{"name": "greeter", "version": "1.0.0", "description": ""} | facts)
    assert caught.value.field in facts


@pytest.mark.parametrize("limit", ["max_concurrent_tasks", "max_input_bytes", "kept_seconds"])
def test_a_limit_of_nothing_is_refused(limit):
    with pytest.raises(InvalidInput, match="is no limit"):
        AgentLimits(**{limit: 0})


@pytest.mark.parametrize(
    ("value", "kind", "back"),
    [
        ("text", "text", "text"),
        (b"raw", "raw", b"raw"),
        ({"a": [1]}, "json", {"a": [1]}),
        (Given(name="x"), "json", {"name": "x"}),
    ],
)
def test_a_part_holds_any_value(value, kind, back):
    part = Part.of(value)
    assert (part.kind, part.value) == (kind, back)


def test_what_has_no_json_form_is_named():
    with pytest.raises(Internal, match="type object"):
        Part.of(object())
