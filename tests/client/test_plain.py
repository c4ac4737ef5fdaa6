"""The plain publisher against the socket that the service binds."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from edgetuner.client import PlainPublisher
from edgetuner.errors import ProtocolError
from edgetuner.protocol import FROM_SENSOR, WindowHeader, decode, decode_samples
from edgetuner.transport import SUB, Sockets, receive_batch

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.mark.asyncio
async def test_windows_arrive_once_the_service_listens(address: str) -> None:
    sockets = Sockets()
    with PlainPublisher(address, "watch-7", first_seq=5) as publisher:
        assert not publisher.wait(0.0)
        plain = sockets.bind(SUB, address, field="sockets.plain", for_sensors=True)
        arriving = asyncio.create_task(receive_batch(plain, 1))
        assert await asyncio.to_thread(publisher.wait, 10.0)
        assert publisher.publish("s", X, t_ns=1, hz=50, label="walk") == 5
        assert publisher.publish("s", X, t_ns=2, hz=50) == 6
        assert publisher.publish("s", X, t_ns=2, hz=50, seq=9) == 9
        received = await arriving
        while len(received) < 3:
            received += await receive_batch(plain, 3)
    sockets.close()
    headers = [decode(message.frames, FROM_SENSOR) for message in received]
    first, payload = headers[0]
    assert isinstance(first, WindowHeader)
    assert (first.client_id, first.stream, first.label) == ("watch-7", "s", "walk")
    np.testing.assert_array_equal(decode_samples(first, payload), X)
    assert [header.seq for header, _ in headers if isinstance(header, WindowHeader)] == [5, 6, 9]


def test_what_nobody_hears_is_gone_and_blocks_nobody(address: str) -> None:
    with PlainPublisher(address, "watch-7") as publisher:
        assert [publisher.publish("s", X, t_ns=0, hz=50) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ProtocolError, match="shape"):
            publisher.publish("s", X[0], t_ns=0, hz=50)
        with pytest.raises(ProtocolError, match="hz"):
            publisher.publish("s", X, t_ns=0, hz=0)
        assert publisher.publish("s", X, t_ns=0, hz=50) == 3
