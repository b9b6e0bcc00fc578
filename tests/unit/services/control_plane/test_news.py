import asyncio

from services.control_plane.news import News


async def test_all_who_wait_are_woken_each_time():
    news = News()
    for _ in range(2):
        waiting = [asyncio.create_task(news.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        news.tell()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [True] * 3


async def test_without_news_the_wait_ends_with_its_time():
    news = News()
    news.tell()
    assert await news.wait(0.01) is False
    assert await news.wait(0) is False
