"""The awaited client: the same promises, in one task."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from edgetuner import AsyncClient
from edgetuner.client.sync import Client
from edgetuner.errors import BusyError, LabelError, UnavailableError, UsageError

from .model_service import Peer

X = np.zeros((2, 4), np.float32)


def window(value: int) -> np.ndarray:
    return np.full((2, 4), value, np.float32)


def test_it_has_the_surface_of_the_blocking_client() -> None:
    def surface(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert surface(AsyncClient) == surface(Client)


@pytest.mark.asyncio
async def test_publish_label_and_predict(address: str, peers: list[Peer]) -> None:
    async with AsyncClient(address, "watch-7") as client:
        assert (await client.welcome()).length == 4
        for n in range(20):
            seq = await client.publish("wrist", window(n), t_ns=n)
            await client.label("wrist", seq, "walk")
        await client.flush()
        predicted = []
        async for prediction in client.predictions(timeout=5.0):
            predicted.append(prediction.seq)
            if len(predicted) == 20:
                break
    assert predicted == list(peers[0].disk.windows["wrist"]) == list(range(20))
    assert len(peers[0].disk.labels) == 20
    assert client.counts.resent == 0


@pytest.mark.asyncio
async def test_a_service_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    address: str, peers: list[Peer]
) -> None:
    async with AsyncClient(address, "watch-7", resend_after_s=0.2) as client:
        for turn in range(4):
            for n in range(50):
                await client.publish("s", window(50 * turn + n), t_ns=n)
            peers.append(peers[-1].reborn())
        await client.flush()
        assert list(peers[-1].disk.windows["s"]) == list(range(200))
        assert not client.refusals
        assert client.counts.acked == 200


@pytest.mark.asyncio
async def test_it_starts_before_the_service_does(address: str) -> None:
    async with AsyncClient(address, "watch-7", resend_after_s=0.1) as client:
        with pytest.raises(UnavailableError):
            await client.publish("s", X, t_ns=0, timeout=0.0)
        peer = Peer(address)
        try:
            assert await client.publish("s", X, t_ns=0) == 0
            await client.flush()
        finally:
            peer.kill()


@pytest.mark.asyncio
async def test_publish_waits_for_room(address: str, peers: list[Peer]) -> None:
    async with AsyncClient(address, "watch-7", max_pending=2, resend_after_s=0.2) as client:
        await client.welcome()
        peers[0].mute.set()
        for n in range(2):
            await client.publish("s", window(n), t_ns=n)
        with pytest.raises(BusyError):
            await client.publish("s", window(2), t_ns=2, timeout=0.0)
        with pytest.raises(UnavailableError):
            await client.flush(timeout=0.0)
        waiting = asyncio.create_task(client.publish("s", window(2), t_ns=2))
        peers[0].mute.clear()
        assert await waiting == 2
        await client.flush()
        assert client.pending == 0


@pytest.mark.asyncio
async def test_closing_ends_whoever_waits(address: str) -> None:
    client = AsyncClient(address, "watch-7")
    with pytest.raises(UsageError, match="not entered"):
        await client.welcome()
    await client.close()
    await client.__aenter__()
    waiting = asyncio.create_task(client.welcome(timeout=60))
    listening = asyncio.create_task(anext(client.predictions(), None))
    await asyncio.sleep(0)
    await client.close()
    await client.close()
    with pytest.raises(UsageError, match="closed"):
        await waiting
    assert await listening is None


@pytest.mark.asyncio
async def test_a_client_that_the_service_refuses(address: str, peers: list[Peer]) -> None:
    peers[0].service.refused_clients.add("watch-7")
    with pytest.raises(LabelError, match="not you"):
        async with AsyncClient(address, "watch-7") as client:
            await client.welcome()


@pytest.mark.asyncio
async def test_predictions_end_after_a_silence(address: str, peers: list[Peer]) -> None:
    async with AsyncClient(address, "watch-7", predictions=False) as client:
        await client.welcome()
        assert [p async for p in client.predictions(timeout=0.0)] == []
