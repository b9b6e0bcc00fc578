"""Sending is never left in the middle: gRPC's core has room for one operation of each kind."""

import asyncio

import pytest

from mesh.rpc.call_io import CallIo

OURS = (("x-ours", "1"),)


class Core:
    """A servicer context that refuses, as gRPC's does, to begin sending before the last has ended."""

    def __init__(self):
        self.sent = []
        self.trailing = ()
        self._running = None

    async def _send(self, *what):
        if self._running is not None and not self._running.done():
            raise RuntimeError("GRPC_CALL_ERROR_TOO_MANY_OPERATIONS")
        self._running = asyncio.get_running_loop().create_future()
        self.sent.append(what)
        await self._running

    def end(self, error=None):
        """What was begun last ends."""
        if error is None:
            self._running.set_result(None)
        else:
            self._running.set_exception(error)

    async def send_initial_metadata(self, metadata):
        await self._send("metadata", metadata)

    async def write(self, message):
        await self._send("write", message)

    async def abort(self, code, details, trailing):
        await self._send("abort", code, trailing)

    def set_trailing_metadata(self, trailing):
        self.trailing = trailing

    def code(self):
        return "asked of the core"


@pytest.fixture
def core():
    return Core()


@pytest.fixture
def io(core):
    return CallIo(core, OURS)


async def turns():
    """Let all that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def end_all(core, *tasks):
    """End one operation after the other until the tasks are done."""
    while not all(task.done() for task in tasks):
        await turns()
        if core._running is not None and not core._running.done():
            core.end()


async def test_ours_comes_with_the_first_answer_and_only_then(core, io):
    first = asyncio.ensure_future(io.write("a"))
    await end_all(core, first)
    second = asyncio.ensure_future(io.write("b"))
    await end_all(core, second)
    assert core.sent == [("metadata", OURS), ("write", "a"), ("write", "b")]


async def test_metadata_of_the_handler_is_joined_with_ours(core, io):
    sending = asyncio.ensure_future(io.send_initial_metadata([("x-own", "2")]))
    await end_all(core, sending)
    io.set_trailing_metadata([("x-last", "3")])
    opening = asyncio.ensure_future(io.open())
    await end_all(core, opening)
    assert core.sent == [("metadata", (("x-own", "2"), *OURS))]
    assert core.trailing == (("x-last", "3"), *OURS)


async def test_a_cancelled_sender_is_free_at_once_and_the_next_one_waits(core, io):
    first = asyncio.ensure_future(io.write("a"))
    await turns()
    core.end()
    await turns()
    first.cancel()
    await turns()
    assert first.cancelled()
    second = asyncio.ensure_future(io.write("b"))
    aborting = asyncio.ensure_future(io.abort("NOT_FOUND"))
    await turns()
    assert core.sent == [("metadata", OURS), ("write", "a")]
    core.end()
    await turns()
    assert core.sent[2:] == [("write", "b")]
    core.end()
    await turns()
    assert core.sent[3:] == [("abort", "NOT_FOUND", ())]
    core.end()
    await asyncio.wait([second, aborting], timeout=5)
    assert second.result() is None


async def test_opening_that_is_cancelled_is_not_repeated(core, io):
    opening = asyncio.ensure_future(io.open())
    await turns()
    opening.cancel()
    await turns()
    again = asyncio.ensure_future(io.write("a"))
    await end_all(core, again)
    assert core.sent == [("metadata", OURS), ("write", "a")]


async def test_many_writers_take_turns(core, io):
    writers = [asyncio.ensure_future(io.write(number)) for number in range(5)]
    await end_all(core, *writers)
    assert core.sent[0] == ("metadata", OURS)
    assert sorted(message for _, message in core.sent[1:]) == list(range(5))


async def test_a_failure_is_told_to_its_own_sender_only(core, io):
    opening = asyncio.ensure_future(io.open())
    await end_all(core, opening)
    first, second = asyncio.ensure_future(io.write("a")), asyncio.ensure_future(io.write("b"))
    await turns()
    core.end(ConnectionError("gone"))
    await turns()
    with pytest.raises(ConnectionError):
        await first
    await end_all(core, second)
    assert second.result() is None


async def test_what_the_core_refuses_at_once_is_raised(core, io):
    async def refuse(message):
        raise ValueError("no such message")

    core.write = refuse
    writing = asyncio.ensure_future(io.write("a"))
    await end_all(core, writing)
    with pytest.raises(ValueError, match="no such message"):
        await writing
    await io.settle()


async def test_abort_adds_ours_to_what_the_handler_gives(core, io):
    aborting = asyncio.ensure_future(io.abort("DATA_LOSS", "gone", [("x-own", "2")]))
    await turns()
    aborting.cancel()
    assert core.sent == [("abort", "DATA_LOSS", (("x-own", "2"), *OURS))]


async def test_everything_else_is_asked_of_the_core(io):
    assert io.code() == "asked of the core"
