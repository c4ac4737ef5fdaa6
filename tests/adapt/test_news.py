from __future__ import annotations

import asyncio

import pytest

from edgetuner.adapt.news import News
from tests.live import PATIENCE_S


async def test_what_was_told_while_nobody_waited_is_heard_once() -> None:
    news = News(PATIENCE_S)
    news.tell()
    news.tell()
    await asyncio.wait_for(news.wait(), 1)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(news.wait(), 0.01)


async def test_it_wakes_who_waits() -> None:
    news = News(2 * PATIENCE_S)
    waiting = asyncio.create_task(news.wait())
    await asyncio.sleep(0)
    news.tell()
    await asyncio.wait_for(waiting, PATIENCE_S)


async def test_without_any_it_is_time_to_look_after_a_tick() -> None:
    news = News(0.001)
    for _ in range(3):
        await asyncio.wait_for(news.wait(), PATIENCE_S)


async def test_news_in_the_moment_of_its_end_do_not_keep_it_running() -> None:
    news = News(2 * PATIENCE_S)

    async def listen() -> None:
        while True:
            await news.wait()

    listening = asyncio.create_task(listen())
    while not news._told._waiters:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    news.tell()
    listening.cancel()
    done, _ = await asyncio.wait([listening], timeout=PATIENCE_S)
    assert done and listening.cancelled()
