from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path

from edgetuner.client import subscribe
from edgetuner.protocol import StatusMessage
from edgetuner.publisher import SNAPSHOT, Publisher
from edgetuner.transport import XPUB, Sockets


@contextlib.asynccontextmanager
async def publishing(address: str) -> AsyncIterator[Publisher]:
    sockets = Sockets()
    await sockets.start()
    publisher = Publisher(sockets.bind(XPUB, address, field="sockets.status"), "boot")
    task = asyncio.create_task(publisher.serve())
    yield publisher
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    sockets.close()


async def heard(address: str, count: int) -> list[StatusMessage]:
    """The next messages that somebody hears who comes now."""

    def listen() -> list[StatusMessage]:
        return [message for message in islice(subscribe(address), count) if message is not None]

    return await asyncio.to_thread(listen)


async def snapshot(address: str) -> StatusMessage:
    (first,) = await heard(address, 1)
    return first


def test_everybody_who_comes_gets_the_latest_of_every_status(ipc_dir: Path) -> None:
    address = f"ipc://{ipc_dir / 'status'}"

    async def scene() -> None:
        async with publishing(address) as publisher:
            publisher.publish("status.a", {"n": 1})
            publisher.publish("status.b", {"n": 2})
            publisher.publish("event.gone", {"n": 3})
            publisher.publish("prediction.c.s", {"n": 4})
            publisher.publish("status.a", {"n": 5})
            for _ in range(2):  # a second subscription to the same topic is seen too
                first = await snapshot(address)
                assert first.topic == SNAPSHOT and first.boot_id == "boot"
                assert first.data == {"status.a": {"n": 5}, "status.b": {"n": 2}}
            assert publisher.latest("status.a") == {"n": 5}
            assert publisher.latest("event.gone") is None

    asyncio.run(scene())


def test_messages_are_numbered_without_a_gap(ipc_dir: Path) -> None:
    address = f"ipc://{ipc_dir / 'status'}"

    async def scene() -> None:
        async with publishing(address) as publisher:
            listener = asyncio.create_task(heard(address, 20))
            while not listener.done():
                publisher.publish("event.tick", {})
                await asyncio.sleep(0)
            seqs = [message.seq for message in listener.result()]
            assert seqs == list(range(seqs[0], seqs[0] + 20))

    asyncio.run(scene())
