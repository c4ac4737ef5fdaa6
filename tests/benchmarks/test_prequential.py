"""What a run comes to, told from answers and events that are known."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import prequential
from benchmarks.policies import POLICIES, Log, Policy
from benchmarks.prequential import harm, outcome, play, rolling_f1
from benchmarks.scenarios import SCENARIOS, Cast
from edgetuner.drift.monitor import Finding, StreamKey

KEY = StreamKey("person", "imu")


@pytest.fixture
def stream(wave_home):
    return SCENARIOS["sudden"](Cast(wave_home, 60, 300, seed=0))


def _says(answer):
    """Somebody who gives every window of the stream that class."""
    return lambda rows: answer[rows.start : rows.stop]


def _drift(seq):
    return Finding("drift", "embedding", KEY, seq, seq, 9.0, 1.0)


def test_f1_never_reaches_back_across_a_change(stream):
    predicted = stream.windows.y.copy()
    predicted[stream.changes[0] :] = (predicted[stream.changes[0] :] + 1) % 3
    curve = rolling_f1(stream, predicted)
    assert {f1 for at, f1 in curve if at <= stream.changes[0]} == {1.0}
    assert {f1 for at, f1 in curve if at > stream.changes[0]} == {0.0}
    assert outcome(stream, predicted, Log())["auc"] == 0.0


def test_a_swap_is_judged_on_the_windows_after_it_by_the_truth(stream):
    y, end = stream.windows.y, len(stream)
    right, wrong = _says(y), _says((y + 1) % 3)
    assert harm(stream, (y + 1) % 3, 80, end, right, wrong) == 1.0
    assert harm(stream, y, 80, end, wrong, right) == -1.0
    assert harm(stream, y, end - 50, end, right, wrong) is None, "too few windows are left"
    assert harm(stream, y, 80, end, right, wrong) == 0.0, "what was answered counts ..."
    assert harm(stream, y, 80, 80, right, wrong) == 1.0, "... as long as it was not swapped out"
    log = Log(swaps=[(80, right, wrong), (120, wrong, right), (len(stream) - 8, right, wrong)])
    log.events = [(80, "swap"), (120, "rollback"), (len(stream) - 8, "swap")]
    served = y.copy()
    for gone in (slice(80, 120), slice(end - 8, end)):
        served[gone] = (y[gone] + 1) % 3
    row = outcome(stream, served, log)
    assert (row["swaps"], row["swaps_judged"], row["harmful_swaps"]) == (2, 1, 1)
    assert (row["rollbacks"], row["harmful_rollbacks"]) == (1, 0)
    assert [lost for _, lost in row["harms"]] == [1.0, -1.0, None]


def test_alarms_before_the_change_are_false_and_the_first_after_it_tells_the_delay(stream):
    change = stream.changes[0]
    log = Log()
    for at in (5, change + 9, change + 50):
        log.note([_drift(at - 3)], at)
    row = outcome(stream, stream.windows.y, log)
    assert (row["false_alarms"], row["alarms"], row["delay"]) == (1, 3, 10)
    assert "delay" not in outcome(stream, stream.windows.y, Log())


def test_recovered_is_when_f1_is_nearly_what_it_was(stream):
    change = stream.changes[0]
    predicted = stream.windows.y.copy()
    predicted[change : change + 40] = (predicted[change : change + 40] + 1) % 3
    row = outcome(stream, predicted, Log())
    assert row["f1_before"] == 1.0 and 40 < row["recovered"] <= len(stream) - change
    predicted[change:] = (stream.windows.y[change:] + 1) % 3
    assert outcome(stream, predicted, Log())["recovered"] is None


def test_a_fault_counts_when_it_has_its_name_in_time_and_is_not_trained_on(wave_home, monkeypatch):
    stream = SCENARIOS["sensor faults"](Cast(wave_home, 60, 300, seed=0))
    (name, first, _), (other, second, _) = stream.faults[:2]
    monkeypatch.setattr(prequential, "NAMES", {name: ("right",), other: ("right",)})
    log = Log(trained_on={0, first, first + 1})
    log.findings = [
        Finding("sensor_fault", "right", KEY, first + 19, first),
        Finding("sensor_fault", "wrong", KEY, second + 2, second),
        Finding("sensor_fault", "right", KEY, second + 25, second),
        Finding("sensor_fault", "right", KEY, 3, 3),
    ]
    row = outcome(stream, stream.windows.y, log)
    assert row["faults"] == len(stream.faults)
    assert (row["faults_in_time"], row["faults_noticed"]) == (1, 2)
    assert (row["faults_trained_on"], row["faults_when_sound"]) == (2, 1)
    broken = stream.windows.y.copy()
    broken[stream.faulty] = (broken[stream.faulty] + 1) % 3
    assert outcome(stream, broken, log)["auc"] == 1.0, "nobody can read a broken sensor"


def test_every_window_is_answered_before_its_label_comes(
    stream, wave_version, monkeypatch, tmp_path
):
    seen, told = [], []

    class Listener(Policy):
        async def windows(self, rows):
            seen.extend(rows)
            return np.zeros(len(rows), np.int64)

        async def labels(self, rows):
            told.extend(rows)
            assert all(self.stream.due[row] < len(seen) for row in rows)
            assert set(rows) <= set(seen)

        async def act(self, now):
            assert now == len(seen)

        async def close(self):
            seen.append(-1)

    monkeypatch.setitem(POLICIES, "listener", Listener)
    predicted, _ = asyncio.run(play(stream, "listener", wave_version, tmp_path, 1e-3))
    assert len(predicted) == len(stream) and seen == [*range(len(stream)), -1]
    due = [row for row in range(len(stream)) if stream.label[row] >= 0]
    assert sorted(told) == [row for row in due if stream.due[row] < len(stream)]
