"""Detection on streams: quiet at home, loud after a change, and every alarm is counted."""

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import detection
from benchmarks.bouts import Bouts
from benchmarks.detection import Answers, alarms, answers, pairs, wearers

BOUTS = Bouts(2, 120)


def test_what_trains_what_calibrates_and_what_is_played_are_apart_and_in_this_order(wave_home):
    parts = wave_home.train, wave_home.held, wave_home.home
    for person in (1, 2):
        for label in range(3):
            ranges = []
            for windows in parts:
                mine = (windows.groups["subject"] == person) & (windows.y == label)
                t = windows.groups["t"][mine]
                ranges += [t.min(), t.max()]
            assert ranges == sorted(ranges) and len(set(ranges)) == 6
    assert set(wave_home.away.groups["position"]) == {1}


def test_a_turned_sensor_is_noticed_and_home_far_less(wave_home, wave_version):
    reference = wave_version.reference
    found = detection.false_alarms(wave_home, wave_version, reference, BOUTS, 4000, seed=0)
    assert found["windows"] == 4000 and len(found["alarms_by_stream"]) == 2
    assert found["alarms"] == sum(found["alarms_by_stream"])
    ((noticed, _),) = alarms(reference, answers(wave_version, wave_home.away), first=True)
    assert 2 * (noticed + 1) * found["alarms"] < found["windows"]
    assert ("ratio" in found) == (found["alarms"] > 0)
    rows = detection.delays(wave_home, wave_version, reference, BOUTS, 6, seed=0)
    assert len(rows) == 6 and {row["change"] for row in rows} == {"position"}
    assert all(("delay" in row) != ("false_alarm_after" in row) for row in rows)
    assert all(row["delay"] < 200 for row in rows if "delay" in row)
    assert rows[0]["f1_home"] > 0.9 > rows[0]["f1_away"] + 0.3


def test_every_alarm_is_acknowledged_and_what_it_was_made_of_is_known_then(wave_home, wave_version):
    strange = answers(wave_version, wave_home.away)
    found = [at for at, _ in alarms(wave_version.reference, strange)]
    assert found and alarms(wave_version.reference, strange, first=True)[0][0] == found[0]
    again = [at for at, _ in alarms(wave_version.reference, strange.then(strange))]
    assert len(again) < 2 * len(found), "the second time it is known"
    assert again[: len(found)] == found


def test_a_stream_with_an_alarm_before_its_change_has_no_delay(
    wave_home, wave_version, monkeypatch
):
    monkeypatch.setattr(detection, "alarms", lambda reference, stream, first: [(3, "embedding")])
    (row,) = detection.delays(wave_home, wave_version, wave_version.reference, BOUTS, 1, seed=0)
    assert row["false_alarm_after"] == 3 and "delay" not in row
    monkeypatch.setattr(detection, "alarms", lambda reference, stream, first: [])
    (row,) = detection.delays(wave_home, wave_version, wave_version.reference, BOUTS, 1, seed=0)
    assert row["delay"] is None


def test_neighbours_in_a_synthetic_bout_are_correlated_as_asked():
    draw = np.random.default_rng(0)
    stream = detection._synthetic(draw, [4000, 4000])
    noise = stream.embeddings - 10 * stream.predicted[:, None]
    bout = noise[:4000]
    assert np.mean(bout[1:] * bout[:-1]) / np.mean(bout**2) == pytest.approx(0.7, abs=0.03)
    assert bout.std() == pytest.approx(1, abs=0.05)


def test_every_reference_has_its_own_synthetic_streams():
    found = detection.correlated_false_alarms(100.0, BOUTS, 40_000, seed=0)
    assert len(found["alarms_by_stream"]) == 5 and found["alarms"] > 50
    assert found["per_million"] == pytest.approx(1e6 * found["alarms"] / found["windows"])
    assert found["ratio"] == pytest.approx(found["windows"] / found["alarms"] / 100)


def test_people_who_stay_wear_it_before_and_after_and_strangers_come_after_others(wave_home):
    stay = pairs(wave_home.home, wave_home.away)
    assert [(a.groups["subject"][0], b.groups["subject"][0]) for a, b in stay] == [(1, 1), (2, 2)]
    first, second = wearers(wave_home.home)
    ((before, after),) = pairs(first, second)
    assert (before.groups["subject"][0], after.groups["subject"][0]) == (1, 2)


def test_watching_and_predicting_are_timed_in_turn(wave_home, wave_version):
    spent = detection.cost(wave_home, wave_version, wave_version.reference, Bouts(), 90)
    ratio = spent["detectors_us"] / spent["inference_us"]
    assert spent["detector_cost_ratio"] == pytest.approx(ratio)
    assert spent["inference_us"] > 0 < spent["detectors_us"]


def test_answers_are_taken_row_by_row():
    some = Answers(np.eye(3), np.arange(3), np.ones(3))
    both = some[1:].then(some[:1])
    assert both.predicted.tolist() == [1, 2, 0] and len(both) == 3
    assert np.array_equal(both.embeddings[2], [1, 0, 0])


def test_what_others_find_is_told_as_what_ours_do(wave_home, wave_version, monkeypatch):
    streams = []

    def found(python, home, calm, handed, names):
        streams.extend(handed)
        return {"ADWIN": [[5], [], [3, 700], []]}

    monkeypatch.setattr(detection, "interpreter", lambda: "python")
    monkeypatch.setattr(detection, "usual_alarms", found)
    rows = detection.usual(wave_home, wave_version, BOUTS, 100, 2, seed=0)
    quiet, first, second = rows
    assert (quiet["windows"], quiet["alarms"], quiet["alarms_by_stream"]) == (100, 1, [1, 0])
    change = len(streams[2]["confidence"]) - first["horizon"]
    assert first["delay"] == 700 - change + 1 and first["alarms_before"] == 1
    assert second["delay"] is None and second["change"] == "position"
    monkeypatch.setattr(detection, "interpreter", lambda: None)
    (row,) = detection.usual(wave_home, wave_version, BOUTS, 100, 2, seed=0)
    assert row["kind"] == "absent" and "river" in row["why"]
