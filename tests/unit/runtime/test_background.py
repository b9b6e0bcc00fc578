import asyncio

import pytest

from mesh.errors import Unavailable
from mesh.runtime import open_background


async def fail(error: Exception, cause: Exception | None = None) -> None:
    raise error from cause


async def test_work_is_cancelled_at_the_end_of_the_body() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    async with open_background(work()) as task:
        await asyncio.sleep(0)
    assert ended == ["work"]
    assert task.cancelled()


async def test_an_error_of_the_work_ends_the_body_and_keeps_its_type_and_cause() -> None:
    cause = OSError("the disk")
    with pytest.raises(Unavailable) as caught:
        async with asyncio.timeout(5), open_background(fail(Unavailable("gone"), cause)):
            await asyncio.Event().wait()
    assert caught.value.__cause__ is cause


async def test_an_error_of_the_body_keeps_its_type_and_cause() -> None:
    cause = OSError("the disk")
    with pytest.raises(Unavailable) as caught:
        async with open_background(asyncio.Event().wait()):  # type: ignore[arg-type]
            await fail(Unavailable("gone"), cause)
    assert caught.value.__cause__ is cause


async def test_two_errors_come_as_a_group() -> None:
    async def fail_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("while ending")

    with pytest.raises(ExceptionGroup) as caught:
        async with open_background(fail_at_the_end()):
            await asyncio.sleep(0)
            raise Unavailable("gone")
    assert {type(error) for error in caught.value.exceptions} == {OSError, Unavailable}


async def test_a_cancellation_from_outside_passes_through() -> None:
    async def hold() -> None:
        async with open_background(asyncio.Event().wait()):  # type: ignore[arg-type]
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_ends_leaves_the_body_alone() -> None:
    async def work() -> None:
        return

    async with open_background(work()) as task:
        await task
        await asyncio.sleep(0)
