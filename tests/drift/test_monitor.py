from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.faults import FAULTS
from edgetuner.drift import (
    DriftMonitor,
    Finding,
    MonitorSettings,
    SensorProfile,
    StreamKey,
    calibrate,
)
from edgetuner.drift.error import ErrorRate
from edgetuner.drift.monitor import ABOUT, TOGETHER
from edgetuner.errors import BusyError, DriftError
from tests.drift import walkers
from tests.drift.synthetic import Windows, calibrated, reference, windows

KEY, OTHER = StreamKey("watch", "wrist"), StreamKey("watch", "ankle")
CHANGE = 240


@pytest.fixture(scope="module")
def home() -> Any:
    return calibrated(run_length=5000)


def stream(seed: int = 5, shift: float = 1.5) -> Windows:
    """240 ordinary windows and then 240 shifted ones."""
    rng = np.random.default_rng(seed)
    before, after = windows(rng, 10), windows(rng, 10, shift=shift)
    return Windows(*(np.concatenate(parts) for parts in zip(before, after, strict=True)))


def signal(count: int) -> Any:
    return np.random.default_rng(9).normal(size=(count, 2, 16)).astype(np.float32)


def feed(
    monitor: DriftMonitor, taken: Windows, key: tuple[str, str] = KEY, first: int = 0
) -> list[Finding]:
    count = len(taken.y)
    return monitor.update_many(
        [key] * count,
        range(first, first + count),
        signal(count),
        taken.embedding,
        taken.y,
        taken.confidence,
    )


def drifts(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.kind == "drift"]


def test_a_shift_is_found_soon_and_its_beginning_is_known(home: Any) -> None:
    monitor = DriftMonitor(home)
    (drift,) = drifts(feed(monitor, stream()))
    assert drift.key == KEY
    assert CHANGE < drift.seq < CHANGE + 40
    assert CHANGE - 5 <= drift.onset_seq <= CHANGE + 5
    assert drift.statistic is not None and drift.threshold is not None
    assert drift.statistic > drift.threshold
    assert monitor.context_start(KEY) == drift.onset_seq
    assert monitor.drifted(KEY)


def test_ordinary_life_is_not_drift(home: Any) -> None:
    monitor = DriftMonitor(home)
    assert drifts(feed(monitor, windows(np.random.default_rng(6), 40))) == []
    assert monitor.context_start(KEY) == 0
    assert not monitor.drifted(KEY)


def test_a_warning_comes_first_and_once(home: Any) -> None:
    """Where thresholds are high enough for several windows; a leap may skip the warning."""
    high = replace(home.calibration, thresholds={"embedding": 20.0, "confidence": 20.0})
    findings = feed(DriftMonitor(home.with_calibration(high)), stream())
    names = [(finding.kind, finding.detector) for finding in findings if finding.seq > CHANGE]
    fired = [detector for kind, detector in names if kind == "drift"]
    assert fired
    assert all(names.count(("warn", detector)) == 1 for detector in fired)
    assert names.index(("warn", fired[0])) < names.index(("drift", fired[0]))


def test_one_by_one_is_the_same_as_together(home: Any) -> None:
    taken, x = stream(), signal(480)
    single, together = DriftMonitor(home), DriftMonitor(home)
    found = []
    for i in range(480):
        found += single.update(
            KEY, i, x[i], taken.embedding[i], int(taken.y[i]), float(taken.confidence[i])
        )
    expected = feed(together, taken)
    assert [(f.kind, f.detector, f.seq, f.onset_seq) for f in found] == [
        (f.kind, f.detector, f.seq, f.onset_seq) for f in expected
    ]


def test_streams_do_not_disturb_each_other(home: Any) -> None:
    monitor = DriftMonitor(home)
    shifted, calm = stream(), windows(np.random.default_rng(6), 20)
    pairs = zip(shifted, calm, strict=True)
    mixed = Windows(*(np.stack(p, 1).reshape(960, *p[0].shape[1:]) for p in pairs))
    found = monitor.update_many(
        [KEY, OTHER] * 480,
        np.repeat(np.arange(480), 2).tolist(),
        signal(960),
        mixed.embedding,
        mixed.y,
        mixed.confidence,
    )
    assert drifts(found) == drifts(feed(DriftMonitor(home), shifted))
    assert not monitor.drifted(OTHER)


def test_drifted_until_swap_which_keeps_the_context(home: Any) -> None:
    monitor = DriftMonitor(home)
    (drift,) = drifts(feed(monitor, stream()))
    more = windows(np.random.default_rng(7), 10, shift=3)
    assert feed(monitor, more, first=480) == []  # it waits for an answer

    rng = np.random.default_rng(8)
    monitor.swap(calibrate(reference(rng, shift=3), 5000))
    assert not monitor.drifted(KEY)
    assert monitor.context_start(KEY) == drift.onset_seq
    assert drifts(feed(monitor, windows(rng, 10, shift=3), first=720)) == []

    (back,) = drifts(feed(monitor, windows(rng, 10), first=960))
    assert monitor.context_start(KEY) == back.onset_seq >= 955


def test_acknowledged_drift_is_watched_from_zero(home: Any) -> None:
    monitor = DriftMonitor(home)
    (drift,) = drifts(feed(monitor, stream()))
    monitor.acknowledge(KEY)
    assert not monitor.drifted(KEY)
    assert monitor.context_start(KEY) == drift.onset_seq
    assert monitor.state()["streams"][0]["statistics"] == {}
    (again,) = drifts(feed(monitor, windows(np.random.default_rng(7), 10, shift=6), first=480))
    assert again.onset_seq >= 480


def test_what_was_acknowledged_is_ordinary_for_its_stream_until_the_next_version(
    home: Any,
) -> None:
    monitor, rng = DriftMonitor(home), np.random.default_rng(7)
    alarms = 0
    for first in range(0, 2400, 240):
        if drifts(feed(monitor, windows(rng, 10, shift=1.5), first=first)):
            alarms += 1
            monitor.acknowledge(KEY)
    assert 1 <= alarms <= 5, "no kind of window raises the same alarm for ever"
    assert not drifts(feed(monitor, windows(rng, 10, shift=1.5), first=2400))
    assert drifts(feed(monitor, windows(rng, 10, shift=1.5), OTHER)), "another stream is another"
    assert drifts(feed(monitor, windows(rng, 10, shift=6), first=2640)), "and worse is news"
    monitor.swap(home)
    assert drifts(feed(monitor, windows(rng, 10, shift=1.5), first=2880))


def test_a_drift_that_passes_is_over_and_the_next_one_is_found(home: Any) -> None:
    """An odd minute at home, which nobody answers, and much later a change."""
    monitor, rng = DriftMonitor(home), np.random.default_rng(7)
    odd = windows(rng, 1, 8, shift=3)
    feed(monitor, windows(rng, 10), first=0)
    alarms = {finding.detector: finding for finding in drifts(feed(monitor, odd, first=240))}
    assert monitor.drifted(KEY) and monitor.context_start(KEY) >= 235
    findings = feed(monitor, windows(rng, 40), first=248)
    (over,) = [finding for finding in findings if finding.kind == "drift_over"]
    assert over.detector in alarms and over.statistic == 0
    assert not monitor.drifted(KEY)
    assert monitor.context_start(KEY) == 0
    change, *_ = drifts(feed(monitor, windows(rng, 10, shift=1.5), first=1208))
    assert 1200 <= change.onset_seq <= change.seq < 1248
    assert 1200 <= monitor.context_start(KEY) <= change.onset_seq


def test_however_often_something_passes_a_change_is_still_found(home: Any) -> None:
    monitor, rng, over = DriftMonitor(home), np.random.default_rng(7), 0
    for first in range(0, 20 * 984, 984):
        feed(monitor, windows(rng, 1, 24, shift=3), first=first)
        findings = feed(monitor, windows(rng, 40), first=first + 24)
        over += sum(finding.kind == "drift_over" for finding in findings)
    assert over >= 10
    assert drifts(feed(monitor, windows(rng, 10, shift=3), first=20 * 984))


def test_too_many_errors_are_over_when_labels_say_so(home: Any) -> None:
    home = calibrate(replace(home, errors=ErrorRate(4, 200)), 5000)
    monitor, calm = DriftMonitor(home), windows(np.random.default_rng(6), 80)
    feed(monitor, calm)
    found = []
    for seq, predicted in enumerate(calm.y.tolist()):
        label = predicted if seq >= 240 else (predicted + 1) % 3
        found += monitor.label(KEY, seq, label, predicted)
    kinds = [finding.kind for finding in found if finding.kind != "warn"]
    assert kinds == ["drift", "drift_over"]
    assert not monitor.drifted(KEY)


def test_a_drift_that_stays_is_not_over(home: Any) -> None:
    monitor, rng = DriftMonitor(home), np.random.default_rng(7)
    assert drifts(feed(monitor, windows(rng, 20, shift=1.5), first=0))
    findings = feed(monitor, windows(rng, 60, shift=1.5), first=480)
    assert findings == [] and monitor.drifted(KEY)


def test_swap_without_thresholds_is_refused_and_changes_nothing(home: Any) -> None:
    monitor = DriftMonitor(home)
    feed(monitor, stream())
    before = monitor.state()
    with pytest.raises(DriftError, match=r"has no thresholds.*calibrate it first"):
        monitor.swap(reference(np.random.default_rng(0)))
    assert monitor.state() == before


def test_streams_are_bounded(home: Any) -> None:
    monitor = DriftMonitor(home, MonitorSettings(max_streams=2))
    some = windows(np.random.default_rng(6), 1)
    feed(monitor, some, ("a", "1"))
    feed(monitor, some, ("a", "2"))
    with pytest.raises(BusyError, match=r"too many streams \(got 3\)"):
        feed(monitor, some, ("a", "3"))
    feed(monitor, some, ("a", "1"), first=24)
    monitor.forget(("a", "1"))
    feed(monitor, some, ("a", "3"))


def test_bad_embeddings_take_nothing_in(home: Any) -> None:
    monitor = DriftMonitor(home)
    some = windows(np.random.default_rng(6), 1)
    with pytest.raises(DriftError, match="not finite"):
        feed(monitor, some._replace(embedding=some.embedding * np.nan))
    assert monitor.state()["streams"] == []


def test_windows_under_a_sensor_fault_are_not_drift(home: Any) -> None:
    x = signal(480)
    monitor = DriftMonitor(home, profile=SensorProfile.fit(x, 50))
    broken = x.copy()
    broken[CHANGE:, 1] = 0
    taken = stream()
    findings = monitor.update_many(
        [KEY] * 480, range(480), broken, taken.embedding, taken.y, taken.confidence
    )
    told = [finding for finding in findings if finding.kind != "warn"]
    assert told == [
        Finding("sensor_fault", "flat_line", KEY, CHANGE + 2, onset_seq=CHANGE, channel=1)
    ]
    assert monitor.fault(KEY) == "flat_line"

    calm = windows(np.random.default_rng(6), 1)
    (over,) = monitor.update_many(
        [KEY] * 24, range(480, 504), x[:24], calm.embedding, calm.y, calm.confidence
    )
    assert over == Finding("sensor_ok", "flat_line", KEY, 482, onset_seq=480)
    assert monitor.fault(KEY) is None


def test_a_drift_that_was_the_sensor_s_is_taken_back(home: Any) -> None:
    """Two axes exchanged: each window by itself is sound, and only several tell."""
    x, recordings = walkers.source()
    profile = SensorProfile.fit(x, 50, triads=walkers.TRIADS, recordings=recordings)
    monitor, rng = DriftMonitor(home, profile=profile), np.random.default_rng(6)
    walk = walkers.recording(3, 48, seed=7)
    walk[24:] = FAULTS["swapped_axes"](walk[24:], rng)
    calm, odd = windows(rng, 1), windows(rng, 1, shift=8)
    taken = Windows(*(np.concatenate(parts) for parts in zip(calm, odd, strict=True)))
    findings = monitor.update_many(
        [KEY] * 48, range(48), walk, taken.embedding, taken.y, taken.confidence
    )
    (drift,) = {finding.seq for finding in drifts(findings)}
    (fault,) = [finding for finding in findings if finding.kind == "sensor_fault"]
    assert 24 <= drift < fault.seq < 36
    assert abs(fault.onset_seq - 24) <= ABOUT
    assert not monitor.drifted(KEY)
    assert monitor.context_start(KEY) == 0


def test_windows_wait_for_each_other_while_the_sensor_is_sound(home: Any) -> None:
    x = signal(480)
    monitor = DriftMonitor(home, profile=SensorProfile.fit(x, 50))
    x[TOGETHER - 2 :, 1] = 0
    told = []
    for i in range(TOGETHER + 3):
        told.append(feed_one(monitor, x[i], i))
    assert told[: TOGETHER - 1] == [[]] * (TOGETHER - 1)
    (fault,) = told[TOGETHER]  # the first that was suspect made the others be looked at one by one
    assert (fault.detector, fault.onset_seq) == ("flat_line", TOGETHER - 2)


def test_windows_that_wait_at_a_swap_are_no_evidence_about_the_new_version(home: Any) -> None:
    monitor, odd = DriftMonitor(home), windows(np.random.default_rng(7), 1, shift=8)
    some = Windows(*(part[: TOGETHER - 1] for part in odd))
    assert feed(monitor, some) == []
    monitor.swap(home)
    calm = windows(np.random.default_rng(6), 1)
    assert drifts(feed(monitor, calm, first=TOGETHER)) == []
    assert monitor.state()["streams"][0]["windows"] == len(calm.y)


def feed_one(monitor: DriftMonitor, x: Any, seq: int) -> list[Finding]:
    calm = windows(np.random.default_rng(6), 1)
    return monitor.update(
        KEY, seq, x, calm.embedding[seq], int(calm.y[seq]), float(calm.confidence[seq])
    )


def test_a_drift_from_before_the_fault_stands(home: Any) -> None:
    monitor = DriftMonitor(home, profile=SensorProfile.fit(signal(480), 50))
    (drift,) = drifts(feed(monitor, stream()))
    x, odd = signal(8), windows(np.random.default_rng(7), 1, 8)
    x[:, 1] = 0
    (fault,) = monitor.update_many(
        [KEY] * 8, range(480, 488), x, odd.embedding, odd.y, odd.confidence
    )
    assert (fault.kind, fault.onset_seq) == ("sensor_fault", 480)
    assert monitor.drifted(KEY)
    assert monitor.context_start(KEY) == drift.onset_seq


def test_the_rate_is_checked_where_it_is_told(home: Any) -> None:
    x = signal(8)
    monitor = DriftMonitor(home, profile=SensorProfile.fit(x, 50))
    calm = windows(np.random.default_rng(6), 1, 8)
    (fault,) = monitor.update_many(
        [KEY] * 8, range(8), x, calm.embedding, calm.y, calm.confidence, hz=[100.0] * 8
    )
    assert (fault.kind, fault.detector, fault.channel) == ("sensor_fault", "rate", None)


def test_the_state_of_very_many_streams_tells_of_those_that_matter(home: Any) -> None:
    monitor = DriftMonitor(home, MonitorSettings(max_streams=4000))
    calm = windows(np.random.default_rng(6), 1, 1)
    for number in range(600):
        feed(monitor, calm, key=("c", str(number)))
    feed(monitor, stream(), key=("c", "drifts"))
    told = monitor.state()["streams"]
    assert len(told) == 512
    assert (told[0]["stream"], told[0]["drifted"]) == ("drifts", True)


def test_state_is_json(home: Any) -> None:
    monitor = DriftMonitor(home)
    feed(monitor, stream())
    state = json.loads(json.dumps(monitor.state()))
    assert state["run_length"] == 5000
    (told,) = state["streams"]
    assert (told["client"], told["stream"]) == KEY
    assert told["drifted"] is True
    assert told["seq"] == 479
    assert told["sensor_fault"] is None


def test_unknown_streams_have_no_news(home: Any) -> None:
    monitor = DriftMonitor(home)
    assert monitor.context_start(KEY) == 0
    assert not monitor.drifted(KEY)
    assert monitor.fault(KEY) is None
    monitor.acknowledge(KEY)
    monitor.forget(KEY)


def test_each_window_tells_by_itself_whether_the_sensor_was_sound(home: Any) -> None:
    x = signal(4)
    profile = SensorProfile.fit(x, 50.0)
    x[1, 0], x[3] = 0.0, 1e3
    assert DriftMonitor(home, profile=profile).sound(x).tolist() == [True, False, True, False]
    assert DriftMonitor(home).sound(x).all(), "nothing is known of this sensor"
    assert DriftMonitor(home, profile=profile).sound(x[:0]).shape == (0,)
