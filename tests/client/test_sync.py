"""The blocking client against a real ROUTER that dies and comes back."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

from edgetuner import Client
from edgetuner.errors import (
    AccessError,
    BusyError,
    ConfigError,
    LabelError,
    TransportError,
    UnavailableError,
    UsageError,
    WindowError,
)

from .model_service import CLASSES, Peer

X = np.zeros((2, 4), np.float32)


def quick(address: str, client_id: str = "watch-7", **arguments: object) -> Client:
    return Client(address, client_id, **{"resend_after_s": 0.2, **arguments})  # type: ignore[arg-type]


def window(value: int) -> np.ndarray:
    return np.full((2, 4), value, np.float32)


def test_ten_lines_publish_label_and_predict(address: str, peers: list[Peer]) -> None:
    with Client(address, "watch-7") as client:
        assert client.welcome().classes == CLASSES
        seqs = [client.publish("wrist", window(n), t_ns=n, hz=50) for n in range(20)]
        for seq in seqs:
            client.label("wrist", seq, "walk")
        client.flush()
        predicted = []
        for prediction in client.predictions(timeout=5.0):
            predicted.append(prediction.seq)
            if len(predicted) == 20:
                break
    assert seqs == predicted == list(range(20))
    assert list(peers[0].disk.windows["wrist"]) == seqs
    assert peers[0].disk.labels == {("wrist", seq): "walk" for seq in seqs}
    assert client.counts.acked == client.counts.labels_acked == 20
    assert client.counts.resent == 0


def test_leaving_the_block_waits_for_what_is_pending(address: str, peers: list[Peer]) -> None:
    with Client(address, "watch-7") as client:
        for n in range(100):
            client.publish("s", window(n), t_ns=n)
    assert len(peers[0].disk.windows["s"]) == 100


def test_it_starts_before_the_service_does(address: str) -> None:
    with quick(address) as client:
        with pytest.raises(UnavailableError):
            client.publish("s", X, t_ns=0, timeout=0.0)
        with pytest.raises(UnavailableError):
            client.welcome(timeout=0.0)
        peer = Peer(address)
        try:
            assert client.publish("s", X, t_ns=0) == 0
            client.flush()
        finally:
            peer.kill()
        assert list(peer.disk.windows["s"]) == [0]


def test_a_service_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    address: str, peers: list[Peer]
) -> None:
    with quick(address) as client:
        for turn in range(4):
            for n in range(50):
                client.publish("s", window(50 * turn + n), t_ns=n)
            peers.append(peers[-1].reborn())  # in the middle of it
        client.flush()
        assert list(peers[-1].disk.windows["s"]) == list(range(200))
        assert not peers[-1].disk.lost["s"]
        assert not client.refusals
        assert client.counts.acked == 200


def test_messages_are_sent_again_while_the_users_code_does_nothing(
    address: str, peers: list[Peer]
) -> None:
    with quick(address) as client:
        client.welcome()
        peers[0].deaf.set()
        client.publish("s", X, t_ns=0)
        peers[0].wait_until_seen(2)
        peers[0].deaf.clear()
        client.flush()
        assert client.counts.resent == 1


def test_a_window_whose_acknowledgement_was_lost_is_not_stored_twice(
    address: str, peers: list[Peer]
) -> None:
    with quick(address) as client:
        client.welcome()
        peers[0].mute.set()
        client.publish("s", X, t_ns=0)
        peers[0].wait_until_seen(2)
        peers[0].mute.clear()
        client.flush()
        assert client.counts.acked == 1
        assert len(peers[0].disk.windows["s"]) == 1


def test_a_silent_listener_gets_predictions_again_after_a_restart(
    address: str, peers: list[Peer]
) -> None:
    with quick(address, hello_every_s=0.05) as client:
        client.welcome()
        peers.append(peers[-1].reborn())
        peers[-1].wait_until_seen(1)  # it has said hello to the new one, unasked
        assert client.publish("s", X, t_ns=0) == 0
        assert next(client.predictions(timeout=10)).seq == 0


def test_a_new_program_goes_on_counting(address: str, peers: list[Peer]) -> None:
    for expected in (0, 1, 2):
        with Client(address, "watch-7") as client:
            assert client.publish("s", window(expected), t_ns=0) == expected


def test_publish_waits_for_room_and_says_when_there_is_none(
    address: str, peers: list[Peer]
) -> None:
    with quick(address, max_pending=3) as client:
        client.welcome()
        peers[0].mute.set()
        for n in range(3):
            client.publish("s", window(n), t_ns=n)
        with pytest.raises(BusyError, match="max_pending"):
            client.publish("s", window(3), t_ns=3, timeout=0.0)
        with pytest.raises(UnavailableError, match="3 messages wait"):
            client.flush(timeout=0.0)
        assert client.pending == 3
        freed = threading.Timer(0.0, peers[0].mute.clear)
        freed.start()
        assert client.publish("s", window(3), t_ns=3) == 3
        client.flush()
        freed.join()
    assert list(peers[0].disk.windows["s"]) == [0, 1, 2, 3]


def test_bad_windows_and_labels_are_refused_at_once(address: str, peers: list[Peer]) -> None:
    with Client(address, "watch-7") as client:
        with pytest.raises(WindowError, match="x, y, each with"):
            client.publish("s", np.zeros((3, 4)), t_ns=0)
        with pytest.raises(LabelError):
            client.label("s", 0, "fly")
        assert client.publish("s", X, t_ns=0) == 0


def test_what_the_service_refuses_is_listed_and_logged(
    address: str, peers: list[Peer], caplog: pytest.LogCaptureFixture
) -> None:
    with Client(address, "watch-7") as client:
        client.publish("s", window(1), t_ns=0)
        client.flush()
        client.publish("s", window(2), t_ns=0, seq=0)  # another window under the same number
        client.flush()
        assert [r.error["code"] for r in client.refusals] == ["sequence"]
        assert client.publish("s", window(3), t_ns=0) == 1
    assert "window 0 of s refused" in caplog.text


def test_a_client_that_the_service_refuses_ends_with_its_error(
    address: str, peers: list[Peer]
) -> None:
    peers[0].service.refused_clients.add("watch-7")
    client = Client(address, "watch-7")
    try:
        for call in (
            client.welcome,
            client.flush,
            lambda: next(client.predictions()),
            lambda: client.publish("s", X, t_ns=0),
        ):
            with pytest.raises(LabelError, match="not you"):
                call()
    finally:
        client.close()


def test_closing_ends_whoever_waits_and_tells_what_was_given_up(
    address: str, peers: list[Peer], caplog: pytest.LogCaptureFixture
) -> None:
    client = quick(address)
    client.welcome()
    peers[0].mute.set()
    client.publish("s", X, t_ns=0)
    caught: list[BaseException] = []
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        try:
            client.flush(timeout=60)
        except UsageError as error:
            caught.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    begun.wait()
    client.close()
    client.close()
    waiter.join()
    assert "closed" in str(caught[0])
    assert list(client.predictions(timeout=60)) == []
    with pytest.raises(UsageError, match="closed"):
        client.publish("s", X, t_ns=0)
    assert ("edgetuner.client", logging.WARNING) in [r[:2] for r in caplog.record_tuples]
    assert "1 windows and labels were unacknowledged" in caplog.text


def test_an_error_in_the_block_is_not_hidden_by_waiting(address: str) -> None:
    with pytest.raises(ZeroDivisionError), Client(address, "watch-7"):
        raise ZeroDivisionError


def test_many_threads_publish_at_once(address: str, peers: list[Peer]) -> None:
    with Client(address, "watch-7", max_pending=16) as client:

        def publish(stream: str) -> None:
            for n in range(50):
                assert client.publish(stream, window(n), t_ns=n) == n

        threads = [threading.Thread(target=publish, args=(f"s{k}",)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.flush()
    assert {s: list(w) for s, w in peers[0].disk.windows.items()} == {
        f"s{k}": list(range(50)) for k in range(4)
    }


def test_predictions_end_after_a_silence(address: str, peers: list[Peer]) -> None:
    with Client(address, "watch-7", predictions=False) as client:
        client.publish("s", X, t_ns=0)
        client.flush()
        assert list(client.predictions(timeout=0.0)) == []


def test_arguments_that_cannot_be(address: str, tmp_path: object) -> None:
    with pytest.raises(TransportError):
        Client("nowhere", "watch-7")
    with pytest.raises(ConfigError):
        Client(address, "watch-7", key="missing.key_secret")
    with pytest.raises((ConfigError, AccessError)):
        Client(address, "watch-7", key="missing.key_secret", server_key="missing.key")
