"""The status socket: the latest of every status topic, events as they happen, a snapshot for
whoever comes.

    [topic, MAGIC, header]      header: protocol.StatusMessage

`status.*` messages carry a whole state, so the last one is all a newcomer needs; `event.*` and
`prediction.*` tell what happened and are not repeated. On every subscription the latest of all
status topics goes out again, bundled as `status.snapshot`, so that a late `tail` sees the state at
once.
"""

from __future__ import annotations

import time
from typing import Any

from edgetuner import protocol
from edgetuner.transport import AsyncSocket, receive_batch, send_now

SNAPSHOT = "status.snapshot"
_SUBSCRIBE = b"\x01"


class Publisher:
    """Publishes on an XPUB socket.

    Args:
        socket: bound, with XPUB_VERBOSE, so that a second subscription to a topic is seen too.
        boot_id: new with every start of the service.
    """

    def __init__(self, socket: AsyncSocket, boot_id: str) -> None:
        self._socket = socket
        self._boot_id = boot_id
        self._seq = 0
        self._latest: dict[str, dict[str, Any]] = {}

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        """Sends to whoever listens; a slow listener loses messages and sees it by `seq`."""
        if topic.startswith("status.") and topic != SNAPSHOT:
            self._latest[topic] = data
        message = protocol.StatusMessage(
            topic=topic,
            seq=self._seq,
            t=round(time.time(), 3),
            boot_id=self._boot_id,
            data=data,
        )
        self._seq += 1
        send_now(self._socket, [topic.encode(), *protocol.encode(message)])

    def latest(self, topic: str) -> dict[str, Any] | None:
        """The last data published on a status topic."""
        return self._latest.get(topic)

    async def serve(self) -> None:
        """Answers subscriptions with a snapshot, until cancelled."""
        while True:
            batch = await receive_batch(self._socket, 64)
            if any(received.frames[0][:1] == _SUBSCRIBE for received in batch):
                self.publish(SNAPSHOT, dict(self._latest))
