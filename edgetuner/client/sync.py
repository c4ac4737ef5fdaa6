"""The blocking client.

A thread of its own owns the socket, so that windows are sent again, and the service is greeted
again, while the user's code reads its sensor or sleeps.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgetuner.client.session import Counts, Session
from edgetuner.connect import DEALER, SyncSocket, connect, credentials, receive_now, send_now, wait
from edgetuner.errors import UnavailableError, UsageError
from edgetuner.protocol import PredictionHeader, Refusal, Welcome

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_log = logging.getLogger("edgetuner.client")

_LONGEST_WAIT_S = 60.0


def unanswered(address: str, pending: int) -> UnavailableError:
    """The error of a client whose messages, or whose first hello, the service has not answered."""
    return UnavailableError(
        f"the service has not answered yet, and {pending} messages wait for it",
        field="address",
        value=address,
        remedy="see that it runs there, and that it knows this client's key",
    )


class Client:
    """Publishes windows and labels until they are acknowledged, and receives predictions.

    ```python
    with Client("ipc:///run/edgetuner/ingest", "watch-7") as client:
        seq = client.publish("wrist", x, t_ns=time.time_ns())
        client.label("wrist", seq, "walking")
        for prediction in client.predictions(timeout=1.0):
            print(prediction.seq, prediction.predicted, prediction.confidence)
    ```

    Windows are sent again after a loss of the connection or a restart of the service, until each is
    acknowledged; the service keeps each once. Leaving the `with` block waits for that; `close`
    alone does not. A window or label that the service refuses for good is logged as a
    warning and listed in `refusals`; it is not raised, since its call has long returned. Methods
    may be called from any thread.

    Args:
        address: of the service's ingest socket, `ipc://...` or `tcp://...`.
        client_id: 1 to 64 of A-Z a-z 0-9 . _ : - ; one program at a time may use it.
        key: file of this client's secret CURVE key, and with it `server_key`, the file of the
            service's public key. Not used for ipc.
        predictions: whether to receive the predictions of these windows. While the client is away
            they are not kept for it.
        max_pending: how many windows and labels are kept unacknowledged before `publish` waits.
        timeout: seconds that a call waits unless it says otherwise.
        resend_after_s: an answer that is missing for so long makes it ask where the streams stand.
        hello_every_s: how often it asks without a cause, so that a restarted service knows this
            client.

    Raises:
        ProtocolError: not a client's name.
        ConfigError, AccessError: a key file that is missing, damaged, or readable by others.
        TransportError: not an address.
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
        self._timeout = timeout
        self._address = address
        key_pair, service_key = credentials(key, server_key)
        socket = connect(DEALER, address, key=key_pair, server_key=service_key)
        self._changed = threading.Condition()
        self._closing = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(
            target=self._run, args=(socket,), name=f"edgetuner-{client_id}", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

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
        """What the service refused for good; the last thousand of them."""
        with self._changed:
            return list(self._session.refusals)

    @property
    def pending(self) -> int:
        """Windows and labels that the service has not answered yet."""
        with self._changed:
            return self._session.pending

    def welcome(self, timeout: float | None = None) -> Welcome:
        """What the service's model takes: channels, length, rate, classes; waits for the first
        answer.

        Raises:
            UnavailableError: no answer within `timeout` seconds.
            EdgetunerError: the service refuses this client.
        """
        with self._changed:
            self._wait(lambda: self._session.welcome is not None, timeout)
            if self._session.welcome is None:
                raise self._unavailable()
            return self._session.welcome

    def publish(
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
        """Takes a window to be sent, and returns its sequence number at once.

        It waits where the service has never answered yet, or `max_pending` is reached.

        Args:
            stream: the sensor's name, in the same characters as `client_id`.
            x: samples of shape (C, T) in the channels' physical units; float16 is sent as it is,
                all else as float32.
            t_ns: Unix time of the first sample, nanoseconds.
            hz: sampling rate, samples per second; by default the model's.
            label: the class, where it is known already.
            seq: by default, one after the last one that was published here, or, in a new program,
                that the service holds; 0 in a new stream. Numbers that are left out count as lost.
            timeout: seconds to wait.

        Raises:
            WindowError: not the model's shape, or a sample that is not finite; nothing was sent.
            LabelError: not a class of the model; nothing was sent.
            ProtocolError, UsageError: a name, time, rate or sequence number that cannot be.
            BusyError: `max_pending` are unacknowledged still after `timeout`.
            UnavailableError: the service never answered within `timeout`.
            EdgetunerError: the service refuses this client.
        """
        with self._changed:
            self._wait(lambda: self._session.ready, timeout)
            taken = self._session.publish(stream, x, t_ns=t_ns, hz=hz, label=label, seq=seq)
            self._wake()
        return taken

    def label(self, stream: str, seq: int, label: str, timeout: float | None = None) -> None:
        """Takes the class of a window to be sent; the window may come before or after it.

        Raises:
            LabelError: not a class of the model; nothing was sent.
            BusyError, UnavailableError, EdgetunerError: as in `publish`.
        """
        with self._changed:
            self._wait(lambda: self._session.ready, timeout)
            self._session.label(stream, seq, label)
            self._wake()

    def predictions(self, timeout: float | None = None) -> Iterator[PredictionHeader]:
        """Predictions as they come, in order within each stream; each window's once.

        It ends when none comes for `timeout` seconds (None: goes on), or when the client is closed.

        Raises:
            EdgetunerError: the service refuses this client.
        """
        while (prediction := self._next_prediction(timeout)) is not None:
            yield prediction

    def flush(self, timeout: float | None = None) -> None:
        """Waits until the service has answered everything that was published.

        Raises:
            UnavailableError: not within `timeout` seconds; what is unanswered stays in `pending`.
            EdgetunerError: the service refuses this client.
        """
        with self._changed:
            if not self._wait(lambda: self._session.pending == 0, timeout):
                raise self._unavailable()

    def close(self) -> None:
        """Closes the socket; what is not acknowledged is given up, and logged. May be called
        twice."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            pending = self._session.pending
            self._changed.notify_all()
            self._wake()
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if pending:
            _log.warning("closed while %d windows and labels were unacknowledged", pending)

    # ------------------------------------------------------------------ the user's threads

    def _wait(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Waits for it, or for the end; the lock is held."""
        self._changed.wait_for(
            lambda: condition() or self._closing or self._session.failed is not None,
            self._timeout if timeout is None else timeout,
        )
        if self._closing:
            raise UsageError("the client is closed")
        if self._session.failed is not None:
            raise self._session.failed
        return condition()

    def _next_prediction(self, timeout: float | None) -> PredictionHeader | None:
        session = self._session
        with self._changed:
            self._changed.wait_for(
                lambda: session.predictions or self._closing or session.failed is not None, timeout
            )
            if session.predictions:
                return session.predictions.popleft()
            if session.failed is not None:
                raise session.failed
            return None

    def _unavailable(self) -> UnavailableError:
        return unanswered(self._address, self._session.pending)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_write, b"\0")

    # ------------------------------------------------------------------ the socket's thread

    def _run(self, socket: SyncSocket) -> None:
        connected = True
        try:
            while not self._closing:
                with self._changed:
                    connected = self._exchange(socket)
                    self._changed.notify_all()
                    now = time.monotonic()
                    seconds = min(self._session.deadline(now) - now, _LONGEST_WAIT_S)
                ready = wait(socket, self._wake_read, seconds, writable=not connected)
                if ready and not connected:
                    with self._changed:
                        self._session.connected(time.monotonic())
        finally:
            socket.close()

    def _exchange(self, socket: SyncSocket) -> bool:
        """Takes in what is there and sends what is due; whether there is a connection."""
        while (received := receive_now(socket)) is not None:
            self._session.receive(received.frames, time.monotonic())
        now = time.monotonic()
        while (message := self._session.next_message(now)) is not None:
            if not send_now(socket, message):
                self._session.disconnected(now)
                return False
        return True
