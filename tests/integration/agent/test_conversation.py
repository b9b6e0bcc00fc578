"""Conversations with an agent."""

import asyncio
import json

import grpc

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2

TYPES = agent_pb2.EnvelopeType


def envelope(kind, payload=b"", **more):
    facts = {"id": "e-1", "sender": "tester"} | more
    return agent_service_pb2.ConverseRequest(envelope=agent_pb2.Envelope(type=kind, payload=payload, **facts))


async def test_a_conversation_answers_each_type_with_its_causation(running):
    async with running() as (_, stub, _, _):
        stream = stub.Converse()

        async def ask(kind, payload=b"", **more):
            await stream.write(envelope(kind, payload, **more))
            answer = (await stream.read()).envelope
            assert answer.causation_id == more.get("id", "e-1")
            assert answer.correlation_id == more.get("correlation_id", answer.causation_id)
            assert answer.sender == "probe"
            return answer.type, answer.payload

        kind, payload = await ask(
            TYPES.ENVELOPE_TYPE_TASK_REQUEST, b'{"skill": "count", "input": {"count": 2}}', correlation_id="c-1"
        )
        assert (kind, json.loads(payload)) == (TYPES.ENVELOPE_TYPE_TASK_RESPONSE, [0, 1])
        kind, payload = await ask(TYPES.ENVELOPE_TYPE_CAPABILITY_QUERY, b'{"tags": ["slow"]}', id="e-2")
        assert kind == TYPES.ENVELOPE_TYPE_CAPABILITY_RESPONSE
        assert [skill["id"] for skill in json.loads(payload)["skills"]] == ["wait"]
        kind, payload = await ask(TYPES.ENVELOPE_TYPE_HEALTH_CHECK, id="e-3")
        assert (kind, json.loads(payload)["status"]) == (TYPES.ENVELOPE_TYPE_HEALTH_CHECK, "SERVING")
        assert await ask(TYPES.ENVELOPE_TYPE_COORDINATION, b"abc", id="e-4") == (
            TYPES.ENVELOPE_TYPE_COORDINATION,
            b"cba",
        )
        for number, (bad, payload) in enumerate(
            [
                (TYPES.ENVELOPE_TYPE_TASK_REQUEST, b"no json"),
                (TYPES.ENVELOPE_TYPE_TASK_REQUEST, b'{"skill": "nothing", "input": 1}'),
                (TYPES.ENVELOPE_TYPE_TASK_REQUEST, b'{"skill": "fail", "input": "x"}'),
                (TYPES.ENVELOPE_TYPE_TASK_RESPONSE, b""),
                (TYPES.ENVELOPE_TYPE_UNSPECIFIED, b""),
            ]
        ):
            kind, answer = await ask(bad, payload, id=f"bad-{number}")
            assert kind == TYPES.ENVELOPE_TYPE_ERROR
            assert json.loads(answer)["summary"]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_a_conversation_that_breaks_takes_its_tasks_along(running):
    async with running() as (probe, stub, _, _):
        stream = stub.Converse()
        await stream.write(envelope(TYPES.ENVELOPE_TYPE_TASK_REQUEST, b'{"skill": "wait", "input": "x"}'))
        while not probe.started:
            await asyncio.sleep(0.005)
        stream.cancel()
        while not probe.canceled:
            await asyncio.sleep(0.005)


async def test_a_conversation_lets_its_tasks_end_and_takes_no_more_while_it_drains(running):
    async with running() as (probe, stub, stop, serving):
        stream = stub.Converse()
        await stream.write(envelope(TYPES.ENVELOPE_TYPE_TASK_REQUEST, b'{"skill": "wait", "input": "x"}'))
        while not probe.started:
            await asyncio.sleep(0.005)
        # A repetition while the first one runs is answered once.
        await stream.write(envelope(TYPES.ENVELOPE_TYPE_TASK_REQUEST, b'{"skill": "wait", "input": "x"}'))
        await stream.write(envelope(TYPES.ENVELOPE_TYPE_HEALTH_CHECK, id="e-2"))
        assert (await stream.read()).envelope.causation_id == "e-2"
        stop.set()
        probe.release.set()
        answer = (await stream.read()).envelope
        assert (answer.type, answer.causation_id, answer.payload) == (
            TYPES.ENVELOPE_TYPE_TASK_RESPONSE,
            "e-1",
            b'"x done"',
        )
        assert await stream.read() is grpc.aio.EOF
        await serving
        assert probe.started == 1


async def test_answers_are_not_answered(running):
    async with running() as (_, stub, _, _):
        stream = stub.Converse()
        await stream.write(envelope(TYPES.ENVELOPE_TYPE_HEALTH_CHECK, causation_id="mine"))
        await stream.write(envelope(TYPES.ENVELOPE_TYPE_ERROR, b"{}", causation_id="mine"))
        await stream.write(envelope(TYPES.ENVELOPE_TYPE_HEALTH_CHECK, id="e-9"))
        assert (await stream.read()).envelope.causation_id == "e-9"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
