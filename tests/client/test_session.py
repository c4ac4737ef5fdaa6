"""The state machine against a model service, over a channel that loses whatever it likes."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetuner.client.session import Session
from edgetuner.errors import (
    BusyError,
    LabelError,
    ProtocolError,
    SequenceError,
    UnavailableError,
    UsageError,
    WindowError,
)
from edgetuner.protocol import (
    FROM_SENSOR,
    Ack,
    Hello,
    LabelHeader,
    Refusal,
    WindowHeader,
    decode,
    encode,
)

from .model_service import CLASSES, Disk, ModelService


def window(value: float = 0.0) -> np.ndarray:
    return np.full((2, 4), value, np.float32)


class Link:
    """A session and a service, with messages under way in between that can be lost."""

    def __init__(self, credit: int = 4, disk: Disk | None = None) -> None:
        self.now = 0.0
        self.session = Session("c", max_pending=64)
        self.disk = disk or Disk()
        self.credit = credit
        self.service = ModelService(self.disk, credit)
        self.up: deque[list[bytes]] = deque()
        self.down: deque[list[bytes]] = deque()
        self.log: list[str] = []

    def leave(self) -> None:
        while (message := self.session.next_message(self.now)) is not None:
            self.log.append(_name(message))
            self.up.append(message)

    def arrive(self, most: int = 1_000) -> None:
        for _ in range(min(most, len(self.up))):
            self.down.extend(self.service.answers(self.up.popleft()))

    def come_back(self, most: int = 1_000) -> None:
        for _ in range(min(most, len(self.down))):
            self.session.receive(self.down.popleft(), self.now)

    def cut(self) -> None:
        self.up.clear()
        self.down.clear()

    def restart(self) -> None:
        self.cut()
        self.service = ModelService(self.disk, self.credit)

    def settle(self) -> None:
        for _ in range(1_000):
            self.leave()
            if not self.up and not self.down:
                if not self.session.pending:
                    return
                self.now = max(self.now, self.session.deadline(self.now))
            self.arrive()
            self.come_back()
        raise AssertionError(f"{self.session.pending} pending after {self.log[-20:]}")

    def publish(self, stream: str = "s", **arguments: Any) -> int:
        value = self.session.counts.published
        return self.session.publish(stream, window(value), t_ns=value, **arguments)

    def held(self, stream: str = "s") -> list[int]:
        return list(self.disk.windows[stream])


def _name(frames: list[bytes]) -> str:
    header, _ = decode(frames, FROM_SENSOR)
    if isinstance(header, Hello):
        return "hello"
    return f"{header.type}:{header.stream}:{header.seq}"


@pytest.fixture
def link() -> Link:
    link = Link()
    link.settle()
    return link


def test_nothing_can_be_published_before_the_welcome() -> None:
    link = Link()
    assert not link.session.ready
    with pytest.raises(UnavailableError):
        link.publish()
    link.settle()
    assert link.session.ready
    assert link.publish() == 0


def test_the_first_message_is_hello_and_the_rest_follows_in_order(link: Link) -> None:
    for _ in range(3):
        link.publish()
    link.settle()
    assert link.log == ["hello", "window:s:0", "window:s:1", "window:s:2"]
    assert link.held() == [0, 1, 2]
    assert link.session.counts.acked == 3


def test_a_new_program_goes_on_after_the_last_number_held(link: Link) -> None:
    link.publish()
    link.publish()
    link.settle()
    again = Link(disk=link.disk)
    again.settle()
    assert again.publish() == 2
    again.settle()
    assert again.held() == [0, 1, 2]


def test_no_more_than_the_credit_is_under_way(link: Link) -> None:
    for _ in range(10):
        link.publish()
    link.settle()  # the stream is known from here on
    for _ in range(10):
        link.publish()
    link.leave()
    assert len(link.up) == 4
    link.arrive(1)
    link.come_back()
    link.leave()
    assert len(link.up) == 4


def test_streams_take_turns(link: Link) -> None:
    for stream in "aaabbb":
        link.publish(stream)
    link.settle()
    assert [name[-3:] for name in link.log[1:]] == ["a:0", "b:0", "a:1", "b:1", "a:2", "b:2"]
    for stream in "aabb":
        link.publish(stream)
    link.leave()
    assert [_name(m)[-3:] for m in link.up] == ["a:3", "b:3", "a:4", "b:4"]


def test_an_answer_that_stays_out_makes_it_ask_and_send_again(link: Link) -> None:
    link.publish()
    link.leave()
    link.cut()
    assert link.session.deadline(link.now) == link.now + 2.0
    assert link.session.next_message(link.now + 1.9) is None
    link.now += 2.0
    link.settle()
    assert link.log == ["hello", "window:s:0", "hello", "window:s:0"]
    assert link.session.counts.resent == 1


def test_what_the_welcome_says_is_held_is_not_sent_again(link: Link) -> None:
    link.publish()
    link.leave()
    link.arrive()
    link.cut()  # it was stored, but the acknowledgement is lost
    link.now += 2.0
    link.settle()
    assert link.log.count("window:s:0") == 1
    assert link.session.counts.acked == 1


def test_the_first_window_of_a_stream_goes_alone(link: Link) -> None:
    link.publish()
    link.publish()
    link.leave()
    # Were both under way, and the first lost with its connection, the second would begin it.
    assert [_name(m) for m in link.up] == ["window:s:0"]


def test_a_restart_is_noticed_without_anything_to_send(link: Link) -> None:
    link.restart()
    link.now = link.session.deadline(link.now)
    link.settle()
    assert link.session.welcome is not None
    assert link.session.welcome.boot_id == "boot-2"
    assert link.session.counts.greetings == 2


@pytest.mark.parametrize("credit", [8, 11, 16])
def test_one_missing_window_sends_it_back_once_not_once_for_each_refusal(credit: int) -> None:
    link = Link(credit=credit)
    link.settle()
    link.publish()
    link.settle()
    for _ in range(8):
        link.publish()
    link.leave()
    link.up.popleft()  # the first is lost, seven are refused
    link.arrive()
    while link.down:
        link.come_back(1)
        link.leave()
    link.settle()
    assert link.held() == list(range(9))
    assert link.session.counts.resent == 8


def test_a_service_without_room_is_asked_ever_more_rarely(link: Link) -> None:
    link.service.no_room["s", 0] = 4
    link.publish()
    times = []
    while not link.held():
        link.leave()
        if link.up:
            times.append(link.now)
        link.arrive()
        link.come_back()
        link.now = link.session.deadline(link.now) if not link.held() else link.now
    waits = np.diff([t for t in times if t == 0 or t % 5])  # without the regular hellos
    assert link.log.count("window:s:0") == 5
    assert np.all(np.diff(waits) >= 0)


def test_one_full_stream_does_not_hold_up_another(link: Link) -> None:
    link.service.no_room["full", 0] = 1_000_000
    link.publish("full")
    link.publish("s")
    for _ in range(3):
        link.leave()
        link.arrive()
        link.come_back()
    assert link.held() == [0]


def test_a_refused_window_is_told_and_never_sent_again(link: Link) -> None:
    link.publish()
    header = WindowHeader(
        client_id="c",
        stream="s",
        seq=0,
        t_ns=0,
        hz=50,
        dtype="float32",
        shape=[2, 4],
        crc32=1,
    )
    link.leave()
    link.up.clear()
    link.down.extend(link.service.answers(encode(header, b"\0" * 32)))
    link.publish()
    link.settle()
    assert [r.seq for r in link.session.refusals] == [0]
    assert link.session.refusals[0].error["code"] == "window"
    assert link.log.count("window:s:0") == 1
    assert link.held() == [0, 1]


def test_windows_that_will_never_come_are_said_to_be_missing(link: Link) -> None:
    link.publish(seq=3)
    link.publish(seq=7)
    link.publish()
    link.settle()
    assert link.held() == [3, 7, 8]
    assert link.disk.lost["s"] == 3


def test_a_window_after_a_gap_waits_for_those_before_it(link: Link) -> None:
    link.publish()
    link.settle()
    link.publish()
    link.publish(seq=5)
    link.leave()
    assert [_name(m) for m in link.up] == ["window:s:1"]


def test_a_service_that_lost_what_it_acknowledged_is_caught_up(link: Link) -> None:
    for _ in range(4):
        link.publish()
    link.settle()
    del link.disk.windows["s"][3], link.disk.windows["s"][2]
    link.restart()
    link.publish()
    link.now += 3
    link.settle()
    assert link.held() == [0, 1, 4]
    assert link.disk.lost["s"] == 2


def test_a_service_that_insists_on_what_is_gone_ends_it(link: Link) -> None:
    link.publish(seq=3)
    link.settle()
    link.publish(seq=9)
    link.leave()
    frames = link.up.popleft()
    header, _ = decode(frames, FROM_SENSOR)
    assert isinstance(header, WindowHeader) and header.gap
    refusal = Refusal(
        of="window",
        stream="s",
        seq=9,
        final=False,
        expected=4,
        error={"code": "sequence"},
        credit=4,
    )
    link.session.receive(encode(refusal), link.now)
    with pytest.raises(SequenceError, match="that is gone"):
        link.publish()


def test_labels_follow_their_windows_and_the_last_one_counts(link: Link) -> None:
    seq = link.publish()
    for label in CLASSES:
        link.session.label("s", seq, label)
    link.settle()
    assert link.disk.labels == {("s", 0): "run"}
    assert link.session.counts.labels_acked == 3


def test_a_window_carries_its_label(link: Link) -> None:
    link.publish(label="walk")
    link.settle()
    assert link.disk.labels == {("s", 0): "walk"}


@pytest.mark.parametrize("final", [True, False])
def test_a_refused_client(link: Link, final: bool) -> None:
    refusal = Refusal(of="hello", final=final, error={"code": "permission"}, credit=0)
    link.session.receive(encode(refusal), link.now)
    if final:
        assert link.session.failed is not None
        assert link.session.failed.code == "permission"
        assert link.session.next_message(link.now + 100) is None
    else:  # it does not know this connection: hello, and all is well
        link.publish()
        link.settle()
        assert link.log == ["hello", "hello", "window:s:0"]


def test_answers_that_make_no_sense_are_counted_and_passed_over(link: Link) -> None:
    link.session.receive([b"EDT1", b"{}"], link.now)
    link.session.receive([b"junk"], link.now)
    ack = Ack(of="window", stream="?", seq=9, outcome="stored", durable=True, credit=4)
    link.session.receive(encode(ack), link.now)
    assert link.session.counts.unreadable == 2
    link.publish()
    link.settle()


def test_predictions_published_again_after_a_crash_are_seen_once(link: Link) -> None:
    for _ in range(2):
        link.publish()
    link.settle()
    header = WindowHeader(
        client_id="c",
        stream="s",
        seq=1,
        t_ns=0,
        hz=50,
        dtype="float32",
        shape=[2, 4],
        crc32=1,
    )
    link.session.receive(link.service.prediction(header, again=True), link.now)
    header = header.model_copy(update={"seq": 2})
    link.session.receive(link.service.prediction(header, again=True), link.now)
    assert [p.seq for p in link.session.predictions] == [0, 1, 2]
    assert link.session.counts.predictions_repeated == 1


def test_predictions_that_nobody_takes_do_not_pile_up(link: Link) -> None:
    header = WindowHeader(
        client_id="c", stream="s", seq=1, t_ns=0, hz=50, dtype="float32", shape=[2, 4], crc32=1
    )
    message = link.service.prediction(header)
    for _ in range(10_005):
        link.session.receive(message, link.now)
    assert len(link.session.predictions) == 10_000
    assert link.session.counts.predictions_dropped == 5


def test_it_keeps_no_more_than_it_was_told(link: Link) -> None:
    for _ in range(64):
        link.publish()
    with pytest.raises(BusyError, match="max_pending"):
        link.publish()
    assert link.session.counts.published == 64


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((4, 2)), "another shape"),
        (np.zeros(8), "another shape"),
        (np.full((2, 4), "a"), "not numbers"),
        (np.full((2, 4), np.nan), "8 of 8 samples"),
        (np.full((2, 4), 1e300), "not finite"),
    ],
)
def test_a_bad_window_is_refused_where_it_is_published(
    link: Link, x: np.ndarray, match: str
) -> None:
    with pytest.raises(WindowError, match=match):
        link.session.publish("s", x, t_ns=0)
    assert link.publish() == 0  # it has not used up a number


def test_other_bad_arguments_are_refused_where_they_are_given(link: Link) -> None:
    with pytest.raises(LabelError, match="one of rest, walk, run"):
        link.session.label("s", 0, "fly")
    with pytest.raises(LabelError):
        link.publish(label="fly")
    with pytest.raises(ProtocolError, match="stream"):
        link.publish("no spaces")
    with pytest.raises(ProtocolError, match="hz"):
        link.publish(hz=-1)
    with pytest.raises(ProtocolError, match="client_id"):
        Session("")
    with pytest.raises(ProtocolError, match=r"t_ns: not a whole number .*nanoseconds"):
        link.session.publish("s", np.zeros((2, 4)), t_ns=1.7e9)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="seq: not a whole number"):
        link.publish(seq="first")
    with pytest.raises(ProtocolError, match="seq: not a whole number"):
        link.session.label("s", 0.5, "walk")  # type: ignore[arg-type]
    link.publish(seq=5)
    with pytest.raises(UsageError, match="publish 6"):
        link.publish(seq=5)
    assert link.session.pending == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8"])
def test_samples_of_any_number_type_arrive(link: Link, dtype: str) -> None:
    link.session.publish("s", np.arange(8).reshape(2, 4).astype(dtype), t_ns=0)
    link.settle()
    assert link.held() == [0]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("skip"), st.integers(1, 3)),
        st.tuples(st.just("label"), st.integers(0, 10)),
        st.tuples(st.just("leave"), st.just(0)),
        st.tuples(st.just("arrive"), st.integers(1, 6)),
        st.tuples(st.just("come_back"), st.integers(1, 6)),
        st.tuples(st.just("cut"), st.integers(0, 8)),
        st.tuples(st.just("restart"), st.integers(0, 8)),
        st.tuples(st.just("no_room"), st.integers(0, 10)),
        st.tuples(st.just("wait"), st.floats(0, 6)),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(steps=_STEPS, credit=st.integers(1, 6))
def test_whatever_is_lost_each_window_is_held_once_in_order_and_labels_are_right(
    steps: list[tuple[str, object]], credit: int
) -> None:
    link = Link(credit)
    link.settle()
    published: dict[str, list[int]] = {"a": [], "b": []}
    labels: dict[tuple[str, int], str] = {}
    for step, argument in steps:
        _do(link, step, argument, published, labels)
    link.settle()
    for stream, seqs in published.items():
        assert link.held(stream) == seqs
        assert all(crc is not None for crc in link.disk.windows[stream].values())
    assert link.disk.labels == labels
    assert not link.session.refusals
    assert link.session.failed is None
    assert link.session.counts.acked == sum(map(len, published.values()))


def _do(link: Link, step: str, argument: Any, published: Any, labels: Any) -> None:
    if step == "publish":
        published[argument].append(link.publish(argument))
    elif step == "skip":
        following = published["a"][-1] + 1 if published["a"] else 0
        published["a"].append(link.publish("a", seq=following + argument))
    elif step == "label":
        if published["a"]:
            seq = published["a"][argument % len(published["a"])]
            label = CLASSES[len(labels) % 3]
            link.session.label("a", seq, label)
            labels["a", seq] = label
    elif step in ("cut", "restart"):
        link.arrive(argument)  # so much came through before
        getattr(link, step)()
    elif step == "no_room":
        link.service.no_room["b", argument] = 2
    elif step == "wait":
        link.now += argument
    elif step == "leave":
        link.leave()
    else:
        getattr(link, step)(argument)


def test_a_label_header_of_a_window_to_come_is_kept_apart_from_the_window() -> None:
    header = LabelHeader(client_id="c", stream="s", seq=4, label="walk")
    assert decode(encode(header), FROM_SENSOR) == (header, b"")
