"""How a command that stays ends."""

import asyncio
import os
import signal

import pytest

from services.meshctl.foreground import run_until_signal


class Said(list[str]):
    def stop(self) -> None:
        self.append("stop")


async def test_a_signal_lets_what_has_started_end_in_its_own_time() -> None:
    said = Said()

    async def work(wait) -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await wait()
        await asyncio.sleep(0)
        said.append("ended in order")

    async with asyncio.timeout(5):
        await run_until_signal(work, on_stop=said.stop)
    assert said == ["stop", "ended in order"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_cancels_a_start(number: signal.Signals) -> None:
    said = Said()

    async def work(wait) -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            said.append("cleaned up")

    async with asyncio.timeout(5):
        await run_until_signal(work, on_stop=said.stop)
    assert said == ["stop", "cleaned up"]


async def test_a_second_signal_cancels_an_end_that_hangs() -> None:
    said = Said()

    async def work(wait) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
        await wait()
        loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await run_until_signal(work, on_stop=said.stop)
    assert said == ["stop"]


async def test_a_reader_that_has_gone_does_not_keep_a_command_from_ending() -> None:
    def fail() -> None:
        raise BrokenPipeError

    errors = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))

    async def work(wait) -> None:
        loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
        await wait()

    async with asyncio.timeout(5):
        await run_until_signal(work, on_stop=fail)
    assert [type(error) for error in errors] == [BrokenPipeError]


async def test_a_cancellation_without_a_signal_goes_on_to_the_caller() -> None:
    async def work(_) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run_until_signal(work, on_stop=lambda: None)
