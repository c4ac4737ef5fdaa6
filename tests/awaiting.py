"""Waiting for something that a task does, without waiting for ever for a task that has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def before_its_end(task: asyncio.Task[Any], wanted: Coroutine[Any, Any, _T]) -> _T:
    """What `wanted` returns; a task that ends before it fails the test with the task's own error.

    An exception stays in its task until somebody asks for it, so a test that awaits only the event
    which the task should have set would hang instead of saying why.
    """
    waiting = asyncio.create_task(wanted)
    await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    task.result()
    raise AssertionError("the task ended before what the test waits for")
