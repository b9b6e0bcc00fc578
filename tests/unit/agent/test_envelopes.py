"""Payloads of envelopes."""

import json

import pytest

from mesh.agent.envelopes import parse_capability_query, parse_task_request, task_output
from mesh.agent.part import Part
from mesh.errors import InvalidInput


@pytest.mark.parametrize(
    ("payload", "kind", "value"),
    [
        (b'{"skill": "s", "input": {"a": [1, 1.5, null]}}', "json", {"a": [1, 1.5, None]}),
        (b'{"skill": "s", "input": "text"}', "text", "text"),
        (b'{"skill": "s"}', "json", None),
        (b'{"skill": "s", "input": 12345678901234567890}', "json", 12345678901234567890),
    ],
)
def test_a_task_request_names_a_skill_and_carries_any_input(payload, kind, value):
    request = parse_task_request(payload)
    assert (request.skill, request.input.kind, request.input.value) == ("s", kind, value)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "payload"),
        (b"\xff", "payload"),
        (b"[]", "payload"),
        (b"[" * 100_000, "payload"),
        (b"{}", "payload.skill"),
        (b'{"skill": 1}', "payload.skill"),
    ],
)
def test_what_is_no_task_request_is_refused(payload, field):
    with pytest.raises(InvalidInput) as caught:
        parse_task_request(payload)
    assert caught.value.field == field


def test_a_capability_query_may_be_empty_or_name_tags():
    assert parse_capability_query(b"") == set()
    assert parse_capability_query(b"{}") == set()
    assert parse_capability_query(b'{"tags": ["a", "b"]}') == {"a", "b"}
    for bad in (b"1", b'{"tags": "a"}', b'{"tags": [1]}'):
        with pytest.raises(InvalidInput):
            parse_capability_query(bad)


@pytest.mark.parametrize(
    ("values", "payload"),
    [
        ([], None),
        ([{"a": 1}], {"a": 1}),
        (["text"], "text"),
        ([b"\x00"], {"media_type": "application/octet-stream", "data": "AA=="}),
        ([1, "b"], [1, "b"]),
    ],
)
def test_an_output_of_any_parts_is_one_json_document(values, payload):
    assert json.loads(task_output([Part.of(value) for value in values])) == payload
