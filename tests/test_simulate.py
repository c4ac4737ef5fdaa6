from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetuner.data import WindowSet
from edgetuner.errors import UsageError
from edgetuner.simulate import Outcome, Script, Sent, in_bouts, simulate, spacing
from tests import waves
from tests.live import Live

LENGTH = 4


def window_set(y: list[int], **groups: list[int]) -> WindowSet:
    return WindowSet(
        x=np.zeros((len(y), 1, LENGTH), np.float32),
        y=np.array(y, np.int64),
        classes=("a", "b", "c", "d"),
        channels=("x",),
        hz=2.0,
        groups={name: np.array(values, np.int64) for name, values in groups.items()},
    )


@st.composite
def recordings(draw: st.DrawFn) -> WindowSet:
    """Recordings of some classes and subjects, their windows shuffled."""
    counts = draw(
        st.dictionaries(
            st.tuples(st.integers(0, 3), st.integers(0, 2)), st.integers(1, 7), min_size=1
        )
    )
    rows = [(k, s, t) for (k, s), count in counts.items() for t in range(count)]
    rows = draw(st.permutations(rows))
    y, subject, t = (list(column) for column in zip(*rows, strict=True))
    return window_set(y, subject=subject, t=t)


def runs(values: NDArray[np.int64]) -> list[int]:
    """Lengths of the stretches of equal values."""
    ends = np.flatnonzero(np.diff(values)) + 1
    return [int(n) for n in np.diff([0, *ends, len(values)])]


@given(recordings(), st.integers(1, 5))
def test_every_row_comes_exactly_once(windows: WindowSet, bout: int) -> None:
    order = in_bouts(windows, bout)
    assert sorted(order.tolist()) == list(range(len(windows)))


@given(recordings(), st.integers(1, 5))
def test_a_recording_goes_forward_in_time_and_in_one_piece(windows: WindowSet, bout: int) -> None:
    order = in_bouts(windows, bout)
    for label in np.unique(windows.y):
        mine = order[windows.y[order] == label]
        subject, t = windows.groups["subject"][mine], windows.groups["t"][mine]
        assert len(runs(subject)) == len(np.unique(subject))
        assert all(np.diff(t)[np.diff(subject) == 0] > 0)


@given(recordings(), st.integers(1, 5))
def test_classes_take_turns_in_bouts(windows: WindowSet, bout: int) -> None:
    labels = windows.y[in_bouts(windows, bout)]
    counts = {label: windows.y.tolist().count(label) for label in sorted(set(windows.y.tolist()))}
    expected: list[int] = []
    while any(counts.values()):
        for label, left in counts.items():
            expected += [label] * min(bout, left)
            counts[label] = left - min(bout, left)
    assert labels.tolist() == expected


def test_two_files_of_one_class_are_not_interleaved() -> None:
    windows = window_set([0] * 4, recording=[0, 1, 0, 1], t=[0, 0, 1, 1])
    assert in_bouts(windows, 8).tolist() == [0, 2, 1, 3]


def test_without_time_the_rows_are_in_order() -> None:
    assert in_bouts(window_set([1, 0, 1, 0]), 1).tolist() == [1, 0, 3, 2]


@given(recordings(), st.integers(1, 5))
def test_neighbours_are_a_hop_apart_and_others_a_window(windows: WindowSet, bout: int) -> None:
    order = in_bouts(windows, bout)
    apart = spacing(windows, order, hop_s=0.5, length_s=2.0)
    assert apart.shape == order.shape
    assert apart[0] == 2.0
    key = list(zip(windows.y, windows.groups["subject"], windows.groups["t"], strict=True))
    for before, after, seconds in zip(order, order[1:], apart[1:], strict=False):
        k, s, t = key[before]
        assert seconds == (0.5 if key[after] == (k, s, t + 1) else 2.0)


def test_the_next_recording_is_no_neighbour_even_if_its_time_goes_on() -> None:
    windows = window_set([0, 0, 0], subject=[0, 0, 1], t=[0, 1, 2])
    assert spacing(windows, np.array([0, 1, 2]), 0.5, 2.0).tolist() == [2.0, 0.5, 2.0]


def test_nothing_has_no_spacing() -> None:
    nothing = window_set([0]).take(np.array([], np.int64))
    assert len(in_bouts(nothing, 3)) == len(spacing(nothing, in_bouts(nothing, 3), 1, 2)) == 0


@pytest.mark.parametrize(
    ("given_", "remedy"),
    [
        ({"bout": 0}, "at least 1"),
        ({"label_share": -0.1}, "between 0 and 1"),
        ({"label_share": 1.1}, "between 0 and 1"),
        ({"label_share": float("nan")}, "between 0 and 1"),
        ({"label_delay": -1}, "0 or more"),
        ({"rate": 0.0}, "above 0"),
        ({"hop_s": 0.0}, "above 0"),
        ({"hop_s": float("nan")}, "above 0"),
    ],
)
def test_a_script_out_of_range_is_refused(given_: dict[str, Any], remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy) as caught:
        Script(**given_)
    assert caught.value.field == next(iter(given_))


def test_a_script_at_its_limits() -> None:
    Script(bout=1, label_share=0, label_delay=0, rate=None, hop_s=None)
    Script(label_share=1)


def test_accuracy_counts_what_was_predicted() -> None:
    def sent(phase: int, y: int, predicted: str | None) -> Sent:
        return Sent(0, "c", 0, 0.0, phase, y, False, predicted)

    outcome = Outcome([sent(0, 0, "a"), sent(0, 1, "a"), sent(0, 1, None), sent(1, 0, None)])
    assert outcome.accuracy(("a", "b"), 0) == 0.5
    assert outcome.accuracy(("a", "b"), 1) is None
    assert outcome.macro_f1(("a", "b"), 0) == pytest.approx(1 / 3)
    assert outcome.macro_f1(("a", "b"), 1) is None


# ------------------------------------------------------------------ against a real service


def simulated(live: Live, phases: dict[str, list[WindowSet]], script: Script) -> Outcome:
    """A simulation on which progress was reported after every round."""
    clients = {name: live.client(name) for name in phases}
    seen: list[int] = []
    try:
        outcome = simulate(
            clients, phases, script, stream="wrist", on_step=lambda o: seen.append(len(o.sent))
        )
    finally:
        for client in clients.values():
            client.close()
    assert seen == sorted(seen)
    assert seen[-1] == len(outcome.sent)
    return outcome


def test_sensors_side_by_side_and_a_second_time(wave_bundle: Path) -> None:
    source = waves.source(2, 12)
    phases = {f"watch-{s}": [source.select(subject=s)] for s in (0, 1)}
    script = Script(bout=4, label_share=0.5, label_delay=3, rate=None)
    with Live(wave_bundle, {"drift": {"enabled": False}}) as live:
        for number in (1, 2):
            outcome = simulated(live, phases, script)
            assert len(outcome.sent) == outcome.acked == outcome.predictions == len(source)
            assert outcome.duplicates == 0
            assert outcome.refusals == []
            assert [s.order for s in outcome.sent] == list(range(len(source)))
            accuracy = outcome.accuracy(waves.CLASSES, 0)
            assert accuracy is not None and accuracy > 0.9
            ingest = live.call("status")["ingest"]
            assert ingest["windows"] == number * len(source)
            assert ingest["labels"] == number * sum(s.labelled for s in outcome.sent)
