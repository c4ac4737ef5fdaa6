from __future__ import annotations

import asyncio

import pytest

from edgetuner.adapt import turns as module
from edgetuner.adapt.turns import Turns
from edgetuner.errors import BusyError
from tests.live import PATIENCE_S


async def test_an_operator_whom_a_training_keeps_waiting_is_told_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.01)
    doing = "watching"
    turns = Turns(lambda: doing)
    async with turns.own():
        doing = "training"
        with pytest.raises(BusyError, match=r"under way \(got 'training'\).*edgetuner pause"):
            async with turns.of_operator():
                pytest.fail("two at a time")
    async with turns.of_operator():
        pass


async def test_an_operator_who_waits_a_moment_gets_his_turn_and_nobody_else_meanwhile() -> None:
    turns = Turns(lambda: "watching")
    order: list[str] = []

    async def operator() -> None:
        async with turns.of_operator():
            order.append("operator begins")
            await asyncio.sleep(0)
            order.append("operator ends")

    async def coordinator() -> None:
        async with turns.own():
            order.append("coordinator")

    async with turns.own():
        waiting = [asyncio.create_task(operator()), asyncio.create_task(coordinator())]
        await asyncio.sleep(0)
        order.append("first")
    await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
    begins = order.index("operator begins")
    assert order[0] == "first" and order[begins + 1] == "operator ends"
    assert sorted(order) == ["coordinator", "first", "operator begins", "operator ends"]


@pytest.mark.parametrize("whose", ["own", "of_operator"])
async def test_a_turn_that_fails_is_over(whose: str) -> None:
    turns = Turns(lambda: "watching")
    with pytest.raises(ZeroDivisionError):
        async with getattr(turns, whose)():
            _ = 1 / 0
    async with turns.of_operator():
        pass
