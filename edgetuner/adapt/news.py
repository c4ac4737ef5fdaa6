"""The coordinator sleeps until there is something new."""

from __future__ import annotations

import asyncio


class News:
    """Something has changed; what is told while nobody waits is not lost.

    Args:
        tick_s: after so many seconds it is time to look without any, for much changes without
            anybody saying so.
    """

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._told = asyncio.Event()

    def tell(self) -> None:
        """There is some."""
        self._told.set()

    async def wait(self) -> None:
        """Waits for some, or for a tick; what came before counts as read from then on.

        Not by `wait_for`: before Python 3.12 it forgets a cancellation that comes along with news,
        and the service would never end.
        """
        waiting = asyncio.ensure_future(self._told.wait())
        try:
            await asyncio.wait([waiting], timeout=self._tick_s)
        finally:
            waiting.cancel()
        self._told.clear()
