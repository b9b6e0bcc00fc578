"""Parts of A2A and parts of the mesh."""

import json

import pytest
from a2a.types import a2a_pb2 as a2a
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agent.v1 import agent_pb2 as pb
from mesh.a2a import part_from_mesh, part_to_mesh, parts_to_mesh
from mesh.agent.codec import part_from_proto, part_to_proto
from mesh.errors import InvalidInput

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=3)


@st.composite
def parts(draw):
    part = a2a.Part(media_type=draw(TEXT), filename=draw(TEXT))
    match draw(st.sampled_from(("text", "raw", "url", "data"))):
        case "text":
            part.text = draw(TEXT)
        case "raw":
            part.raw = draw(st.binary(max_size=20))
        case "url":
            part.url = draw(TEXT)
        case "data":
            ParseDict(draw(VALUES), part.data)
    if metadata := draw(OBJECTS):
        ParseDict(metadata, part.metadata)
    return part


@given(parts())
def test_a_part_goes_into_the_mesh_and_comes_back_as_it_was(part):
    assert part_from_mesh(part_to_mesh(part)) == part


@given(parts())
def test_what_an_agent_makes_of_a_part_differs_in_the_media_type_at_most(part):
    through = part_from_mesh(part_to_proto(part_from_proto(part_to_mesh(part))))
    if part.HasField("text") and part.media_type == "application/json":
        return
    if not part.media_type:
        through.media_type = ""
    assert through == part


@given(VALUES)
def test_json_of_an_agent_says_the_same_as_data(value):
    part = part_from_mesh(pb.Part(json=json.dumps(value).encode()))
    assert part.HasField("data")
    assert json.loads(part_to_mesh(part).json) == value


@pytest.mark.parametrize(
    "document",
    [b"12345678901234567890", b'{"id": 9007199254740993}', b'"\\ud800"', b"[" * 30 + b"]" * 30, b"NaN", b"{"],
    ids=["large", "large inside", "half a character", "deep", "no number", "no JSON"],
)
def test_json_that_data_cannot_hold_is_told_as_text_to_the_byte(document):
    part = part_from_mesh(pb.Part(json=document))
    assert (part.text.encode(), part.media_type) == (document, "application/json")


def test_whole_numbers_stay_whole():
    part = a2a.Part()
    ParseDict({"rate": 0.5, "years": 3}, part.data)
    assert json.loads(part_to_mesh(part).json) == {"rate": 0.5, "years": 3}
    assert b"3.0" not in part_to_mesh(part).json


def test_several_parts_have_names_of_their_own():
    assert [part.name for part in parts_to_mesh([a2a.Part(text="a"), a2a.Part(text="b")])] == ["1", "2"]
    assert parts_to_mesh([a2a.Part(text="a")])[0].name == ""


def test_a_part_without_content_and_a_number_that_is_none_are_refused():
    infinite = a2a.Part()
    infinite.data.number_value = float("inf")
    for part in (a2a.Part(), infinite):
        with pytest.raises(InvalidInput):
            part_to_mesh(part)
