"""RunningCalls: whose a log message is; CallNews: bounded, in order."""

import asyncio

from mesh.mcp.calls import MAX_PENDING, CallNews, LogNews, ProgressNews, RunningCalls


async def drain(call: CallNews) -> list[object]:
    call.close()
    news: list[object] = []
    while (piece := await call.next()) is not None:
        news.append(piece)
    return news


async def test_a_log_message_goes_to_calls_that_asked_for_its_weight() -> None:
    calls = RunningCalls()
    light, heavy, none = CallNews("a", "debug"), CallNews("a", "error"), CallNews("a", None)
    with calls.running(light), calls.running(heavy), calls.running(none):
        calls.log(LogNews("info", "", 1))
        calls.log(LogNews("error", "", 2))
        calls.log(LogNews("no-such-level", "", 3))
    calls.log(LogNews("error", "", 4))
    assert await drain(light) == [LogNews("info", "", 1), LogNews("error", "", 2)]
    assert await drain(heavy) == [LogNews("error", "", 2)]
    assert await drain(none) == []


async def test_a_log_message_that_may_be_of_another_caller_is_withheld() -> None:
    calls = RunningCalls()
    mine, other = CallNews("spiffe://a", "debug"), CallNews("spiffe://b", None)
    with calls.running(mine):
        with calls.running(other):
            calls.log(LogNews("info", "", "whose?"))
        calls.log(LogNews("info", "", "mine"))
    assert await drain(mine) == [LogNews("info", "", "mine")]
    assert calls.take_withheld() == 1
    assert calls.take_withheld() == 0


async def test_a_caller_that_does_not_keep_up_loses_the_oldest_news() -> None:
    call = CallNews("", None)
    for n in range(MAX_PENDING + 5):
        await call.on_progress(n, None, None)
    news = await drain(call)
    assert call.dropped == 5
    assert news[0] == ProgressNews(5, None, "")
    assert len(news) == MAX_PENDING


async def test_news_wake_the_reader() -> None:
    call = CallNews("", None)
    reading = asyncio.create_task(call.next())
    await asyncio.sleep(0)
    await call.on_progress(1, 2, "half")
    assert await reading == ProgressNews(1, 2, "half")
