"""Who may change what is served: one at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from edgetuner.errors import BusyError

_PATIENCE_S = 2.0  # an operator's request waits; shorter than his client does


class Turns:
    """Turns of the coordinator, which waits as long as it takes, and of operators, who do not.

    Args:
        doing: what the coordinator is doing now, in a word.
    """

    def __init__(self, doing: Callable[[], str]) -> None:
        self._doing = doing
        self._taken = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def own(self) -> AsyncIterator[None]:
        """One of the coordinator: an adaptation, or a look at the probation."""
        async with self._taken:
            yield

    @contextlib.asynccontextmanager
    async def of_operator(self) -> AsyncIterator[None]:
        """One of an operator. Raises BusyError where a training keeps him waiting."""
        try:
            await asyncio.wait_for(self._taken.acquire(), _PATIENCE_S)
        except asyncio.TimeoutError:
            raise BusyError(
                "an adaptation is under way",
                field="adapt",
                value=self._doing(),
                remedy="wait for its end, or end it with `edgetuner pause`",
            ) from None
        try:
            yield
        finally:
            self._taken.release()
