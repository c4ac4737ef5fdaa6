"""The client for asyncio: the same surface as `Client`, awaited, in one task and without a
thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgetuner.client.session import Counts, Session
from edgetuner.client.sync import unanswered
from edgetuner.connect import DEALER, POLLIN, POLLOUT, connect, credentials, receive_now, send_now
from edgetuner.errors import UsageError
from edgetuner.protocol import PredictionHeader, Refusal, Welcome
from edgetuner.transport import async_context

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_log = logging.getLogger("edgetuner.client")


class AsyncClient:
    """`Client`, awaited: `async with AsyncClient(address, client_id) as client: ...`.

    Arguments, methods and errors are those of `Client`. It belongs to the event loop that it was
    entered in, and to that loop's thread.
    """

    def __init__(
        self,
        address: str,
        client_id: str,
        *,
        key: str | Path | None = None,
        server_key: str | Path | None = None,
        predictions: bool = True,
        max_pending: int = 1024,
        timeout: float = 10.0,
        resend_after_s: float = 2.0,
        hello_every_s: float = 5.0,
    ) -> None:
        self._session = Session(
            client_id,
            predictions=predictions,
            max_pending=max_pending,
            resend_after_s=resend_after_s,
            hello_every_s=hello_every_s,
        )
        self._address = address
        self._timeout = timeout
        self._keys = credentials(key, server_key)
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncClient:
        self._context = async_context()
        key, server_key = self._keys
        self._socket = connect(
            DEALER, self._address, context=self._context, key=key, server_key=server_key
        )
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            await self.close()

    @property
    def counts(self) -> Counts:
        """What happened so far; it goes on counting."""
        return self._session.counts

    @property
    def client_id(self) -> str:
        """The name under which it publishes."""
        return self._session.client_id

    @property
    def refusals(self) -> list[Refusal]:
        """See `Client.refusals`."""
        return list(self._session.refusals)

    @property
    def pending(self) -> int:
        """Windows and labels that the service has not answered yet."""
        return self._session.pending

    async def welcome(self, timeout: float | None = None) -> Welcome:
        """See `Client.welcome`."""
        await self._wait(lambda: self._session.welcome is not None, timeout)
        if self._session.welcome is None:
            raise unanswered(self._address, self._session.pending)
        return self._session.welcome

    async def publish(
        self,
        stream: str,
        x: ArrayLike,
        *,
        t_ns: int,
        hz: float | None = None,
        label: str | None = None,
        seq: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `Client.publish`."""
        await self._wait(lambda: self._session.ready, timeout)
        taken = self._session.publish(stream, x, t_ns=t_ns, hz=hz, label=label, seq=seq)
        self._exchange()
        return taken

    async def label(self, stream: str, seq: int, label: str, timeout: float | None = None) -> None:
        """See `Client.label`."""
        await self._wait(lambda: self._session.ready, timeout)
        self._session.label(stream, seq, label)
        self._exchange()

    async def predictions(self, timeout: float | None = None) -> AsyncIterator[PredictionHeader]:
        """See `Client.predictions`."""
        session = self._session
        while True:
            try:
                await self._until(lambda: bool(session.predictions), timeout)
            except asyncio.TimeoutError:
                return
            if session.predictions:
                yield session.predictions.popleft()
            elif session.failed is not None:
                raise session.failed
            else:
                return

    async def flush(self, timeout: float | None = None) -> None:
        """See `Client.flush`."""
        if not await self._wait(lambda: self._session.pending == 0, timeout):
            raise unanswered(self._address, self._session.pending)

    async def close(self) -> None:
        """See `Client.close`."""
        if self._closing or self._task is None:
            return
        self._closing = True
        self._changed.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()
        self._context.destroy(linger=0)
        if self._session.pending:
            _log.warning(
                "closed while %d windows and labels were unacknowledged", self._session.pending
            )

    async def _wait(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        try:
            await self._until(condition, self._timeout if timeout is None else timeout)
        except asyncio.TimeoutError:
            # Of several that wait, one may clear the event before another has seen it.
            return condition()
        if self._closing:
            raise UsageError("the client is closed")
        if self._session.failed is not None:
            raise self._session.failed
        return True

    async def _until(self, condition: Callable[[], bool], timeout: float | None) -> None:
        """Waits for it, or for the end of the client."""
        if self._task is None:
            raise UsageError("the client was not entered", remedy="use it in `async with`")
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while not (condition() or self._closing or self._session.failed is not None):
            self._changed.clear()
            left = None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
            await asyncio.wait_for(self._changed.wait(), left)

    async def _run(self) -> None:
        session = self._session
        while True:
            connected = self._exchange()
            now = time.monotonic()
            # `publish` sends by itself, and may so bring the next deadline nearer than it is now.
            seconds = min(session.deadline(now) - now, session.resend_after_s)
            ready = await self._socket.poll(
                max(1, int(seconds * 1000)), POLLIN if connected else POLLOUT
            )
            if ready and not connected:
                session.connected(time.monotonic())

    def _exchange(self) -> bool:
        session = self._session
        while (received := receive_now(self._socket)) is not None:
            session.receive(received.frames, time.monotonic())
        self._changed.set()
        now = time.monotonic()
        while (message := session.next_message(now)) is not None:
            if not send_now(self._socket, message):
                session.disconnected(now)
                return False
        return True
