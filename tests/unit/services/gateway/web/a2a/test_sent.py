"""Messages that come more than once; records of push configurations; streams that end with the gateway."""

import asyncio

from a2a.types import a2a_pb2 as a2a

from mesh.access import Principal
from mesh.errors import Unavailable
from services.gateway.storage import Circuit
from services.gateway.storage.in_process import InProcessAnswers, InProcessRecords
from services.gateway.web.a2a.push.record import Record, open_record
from services.gateway.web.a2a.sent import Sent
from services.gateway.web.a2a.signing import CardSigner
from services.gateway.web.a2a.until import until
from services.gateway.web.mcp.sessions import Sealer


async def test_of_two_at_the_same_time_the_second_finds_what_the_first_has_made():
    sent = Sent(InProcessAnswers(), Circuit("test"))
    made = []

    async def send():
        async with sent.turn("user:ada", "speaker", "m") as turn:
            known = await turn.task_id()
            if not known:
                await asyncio.sleep(0)
                made.append(known := f"task-{len(made)}")
                await turn.note(known)
            return known

    assert await asyncio.gather(*(send() for _ in range(5))) == ["task-0"] * 5
    assert sent._turns == {}


async def test_messages_of_others_and_of_other_agents_are_others():
    sent = Sent(InProcessAnswers(), Circuit("test"))
    async with sent.turn("user:ada", "speaker", "m") as turn:
        await turn.note("task")
    for who in (("user:bob", "speaker", "m"), ("user:ada", "other", "m"), ("user:ada", "speaker", "n")):
        async with sent.turn(*who) as turn:
            assert await turn.task_id() == ""


async def test_without_the_storage_messages_go_on():
    class Away:
        async def get(self, keys):
            raise Unavailable("away")

        async def put(self, key, value, lifetime):
            raise Unavailable("away")

    async with Sent(Away(), Circuit("test")).turn("user:ada", "speaker", "m") as turn:
        assert await turn.task_id() == ""
        await turn.note("task")


def test_a_record_is_sealed_and_read_by_those_who_have_the_key():
    config = a2a.TaskPushNotificationConfig(task_id="t", id="c", url="https://x", token="secret")
    record = Record("speaker", config, Principal("user", "ada", roles=("caller",)), 3, 1e9)
    sealer = Sealer(lambda: [b"k" * 32])
    sealed = record.told(7).seal(sealer)
    assert b"secret" not in sealed
    assert open_record(sealed, sealer) == record.told(7)
    assert open_record(sealed, Sealer(lambda: [b"x" * 32])) is None
    assert open_record(sealed, Sealer(lambda: [b"x" * 32, b"k" * 32])) == record.told(7)
    assert open_record(b"x", sealer) is None


async def test_a_claim_is_one_gateways_until_its_time_is_over():
    now = [0.0]
    records = InProcessRecords(clock=lambda: now[0])
    assert await records.claim("c", "a", 5)
    assert not await records.claim("c", "b", 5)
    now[0] = 3.0
    assert await records.claim("c", "a", 5)
    now[0] = 7.0
    assert not await records.claim("c", "b", 5)
    now[0] = 8.5
    assert await records.claim("c", "b", 5)
    await records.release("c", "a")
    assert not await records.claim("c", "a", 5)
    await records.release("c", "b")
    assert await records.claim("c", "a", 5)


def test_all_gateways_sign_cards_with_the_same_key_and_publish_those_before_it():
    old, new = b"o" * 32, b"n" * 32
    one, other = CardSigner(lambda: [new, old]), CardSigner(lambda: [new])
    assert one.key_set()["keys"][0] == other.key_set()["keys"][0]
    assert len({key["kid"] for key in one.key_set()["keys"]}) == 2
    assert all("d" not in key for key in one.key_set()["keys"])
    assert not CardSigner(list).sign(a2a.AgentCard(name="x"), "https://e").signatures


async def test_a_stream_ends_when_the_gateway_stops_and_what_it_reads_from_is_closed():
    ending, closed = asyncio.Event(), asyncio.Event()

    async def items():
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    stream = until(ending, items())
    assert await anext(stream) == 1
    upcoming = asyncio.ensure_future(anext(stream, None))
    ending.set()
    assert await asyncio.wait_for(upcoming, 5) is None
    assert closed.is_set()
    assert [item async for item in until(asyncio.Event(), _few())] == [1, 2]


async def _few():
    yield 1
    yield 2
