"""Calls and subscriptions against real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from edgetuner.client import Operator, subscribe
from edgetuner.errors import ProtocolError, RegistryError, UnavailableError
from edgetuner.protocol import (
    MAGIC,
    REQUEST,
    Reply,
    Request,
    StatusMessage,
    decode,
    encode,
)


@contextmanager
def answering(address: str, answer: Callable[[Request], list[Reply]]) -> Iterator[None]:
    """A control socket that answers with what `answer` says."""
    ended = threading.Event()
    bound = threading.Event()

    def run() -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(address)
            bound.set()
            while not ended.is_set():
                if router.poll(10):
                    identity, *frames = router.recv_multipart()
                    for reply in answer(decode(frames, REQUEST)[0]):
                        router.send_multipart([identity, *encode(reply)])

    thread = threading.Thread(target=run)
    thread.start()
    bound.wait()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_call_returns_the_result(address: str) -> None:
    def answer(request: Request) -> list[Reply]:
        return [Reply(id=request.id, result={"method": request.method, "got": request.params})]

    with answering(address, answer), Operator(address) as operator:
        result = operator.call("models.show", {"version": "champion"})
        assert result == {"method": "models.show", "got": {"version": "champion"}}
        assert operator.status() == {"method": "status", "got": {}}


def test_the_services_error_is_raised(address: str) -> None:
    error = RegistryError(
        "no such version", field="version", value="v9", remedy="see `edgetuner models list`"
    )

    def answer(request: Request) -> list[Reply]:
        return [Reply(id=request.id, error=error.to_wire())]

    with answering(address, answer), Operator(address) as operator:
        with pytest.raises(RegistryError) as caught:
            operator.call("models.show", {"version": "v9"})
        assert str(caught.value) == str(error)


def test_a_request_that_could_not_be_read_is_answered_without_an_id(address: str) -> None:
    def answer(_: Request) -> list[Reply]:
        return [Reply(id=None, error=ProtocolError("unreadable").to_wire())]

    with (
        answering(address, answer),
        Operator(address) as operator,
        pytest.raises(ProtocolError, match="unreadable"),
    ):
        operator.call("status")


def test_a_late_reply_is_not_taken_for_the_next_one(address: str) -> None:
    late: list[Reply] = []

    def answer(request: Request) -> list[Reply]:
        reply = Reply(id=request.id, result={"method": request.method})
        if request.method == "slow":
            late.append(reply)
            return []
        return [*late, reply]

    with answering(address, answer), Operator(address, timeout_s=0.1) as operator:
        with pytest.raises(UnavailableError, match=r"no reply within 0\.1 s"):
            operator.call("slow")
        operator._timeout_s = 10.0
        assert operator.call("quick") == {"method": "quick"}


def test_nobody_listens(address: str) -> None:
    with (
        Operator(address, timeout_s=0.01) as operator,
        pytest.raises(UnavailableError, match="nobody listens here") as caught,
    ):
        operator.status()
    assert caught.value.value == address


def test_a_subscription_yields_messages_and_silence(address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as status:
        status.linger = 0
        status.bind(address)
        messages = subscribe(address, ("status.", "event."), timeout_s=0.01)
        silent = 0
        while not status.poll(0):
            assert next(messages) is None
            silent += 1
        assert {status.recv(), status.recv()} == {b"\x01status.", b"\x01event."}
        sent = StatusMessage(topic="event.drift", seq=3, t=1.5, boot_id="b", data={"a": None})
        status.send_multipart([b"event.drift", *encode(sent)])
        status.send_multipart([b"status.state", MAGIC, b"junk"])
        received = next(messages)
        while received is None:
            received = next(messages)
        assert received == sent
        with pytest.raises(ProtocolError):
            while True:
                next(messages)
        messages.close()  # type: ignore[attr-defined]
