"""Figures, tables and the picture, from rows that are known."""

import pytest

pytest.importorskip("matplotlib")
from benchmarks.stream_outcome import (
    areas,
    false_alarm_ratios,
    page,
    picture,
    summary,
)


def alarms(counts, windows=1000, asked=100.0, **known):
    row = {
        "kind": "false_alarms",
        "detector": "ours",
        "stream": "bouts",
        "asked": asked,
        "windows": windows,
        "alarms": sum(counts),
        "alarms_by_stream": counts,
        "per_million": 1e6 * sum(counts) / windows,
    }
    return row | ({"ratio": windows / sum(counts) / asked} if sum(counts) else {}) | known


def delay(windows, change="position", lost=0.5, **known):
    row = {
        "kind": "delay",
        "detector": "ours",
        "dataset": "dsads",
        "shift": change,
        "backbone": "small_cnn",
        "change": change,
        "f1_home": 0.9,
        "f1_away": 0.9 - lost,
        "horizon": 2000,
    }
    return row | ({"false_alarm_after": 7} if windows == "alarm" else {"delay": windows}) | known


def run(policy, auc, scenario="sudden", **known):
    return {
        "kind": "run",
        "policy": policy,
        "scenario": scenario,
        "dataset": "dsads",
        "shift": "arm",
        "backbone": "small_cnn",
        "seed": 0,
        "changes": [20],
        "auc": auc,
        "curve": [[10, 0.9], [20, 0.9], [40, auc], [60, auc]],
        "events": [[25, "drift"], [40, "swap"], [44, "rollback"]],
        "harms": [[40, -0.05], [44, None]],
        "trainings": 2,
        "swaps": 1,
        "swaps_judged": 1,
        "harmful_swaps": 0,
        "rollbacks": 1,
        "refused": 0,
        "train_seconds": 1.5,
        "adapt_seconds": 2.0,
        "recovered": None,
    } | known


ROWS = [
    alarms([1, 1, 18], dataset="dsads", backbone="small_cnn"),
    alarms([4], stream="AR(0.7)"),
    alarms([9], detector="adwin", dataset="dsads", backbone="small_cnn"),
    *(delay(windows) for windows in (10, 20, 30, None, "alarm")),
    delay(50, "person"),
    delay(900, "person", lost=0.03),
    delay(1, detector="adwin"),
    {
        "kind": "cost",
        "dataset": "dsads",
        "backbone": "small_cnn",
        "inference_us": 500.0,
        "detectors_us": 50.0,
        "detector_cost_ratio": 0.1,
    },
    run("never", 0.3),
    run("edgetuner", 0.6, harmful_swaps=1),
    run("edgetuner", 0.8, seed=1, delay=12),
    run(
        "edgetuner",
        0.5,
        "sensor faults",
        faults=4,
        faults_in_time=3,
        faults_trained_on=2,
        energy_j=7.0,
    ),
    {
        "kind": "live",
        "dataset": "dsads",
        "shift": "arm",
        "backbone": "small_cnn",
        "windows": 100,
        "rate": 20.0,
        "changes": [20],
        "acked": 100,
        "missing": 0,
        "doubled": 0,
        "auc": 0.5,
        "events": [[25, "drift"]],
    },
]


def test_the_ratio_is_told_of_all_streams_and_of_the_middle_one():
    found = false_alarm_ratios(ROWS)
    assert found["bouts, 100"] == pytest.approx(1000 / 20 / 100)
    assert found["bouts, 100, middle stream"] == pytest.approx(1000 / 3 / 100)
    assert found["AR(0.7), 100"] == pytest.approx(2.5)
    assert false_alarm_ratios([alarms([0])]) == {}, "no alarm, no time between them"


def test_delays_are_ours_and_of_people_whose_coming_costs_something():
    found = summary(ROWS)
    assert found["delay_position_median"] == 25 and found["delay_person_median"] == 50
    assert summary([delay(None), delay(None), delay(5)])["delay_position_median"] is None


def test_the_summary_counts_what_the_service_did():
    found = summary(ROWS)
    assert found["faults_named"] == 0.75 and found["faults_trained_on"] == 2
    assert found["harmful_swaps"] == 1 and found["detector_cost_ratio"] == 0.1
    assert found["train_seconds_by_policy"] == {"never": 1.5, "edgetuner": 4.5}
    assert found["auc_by_policy"]["sudden"] == {"never": 0.3, "edgetuner": pytest.approx(0.7)}


def test_what_was_not_measured_is_absent():
    assert summary([]) == {}
    assert "faults_named" not in summary([run("edgetuner", 0.5)])
    assert "harmful_swaps" not in summary([run("never", 0.5)])
    assert "edgetuner" not in areas([run("never", 0.5)])["sudden"]
    assert "no rail to read" in page([run("never", 0.5)])


def test_the_page_has_every_part_that_was_measured_and_no_other():
    text = page(ROWS)
    for part in (
        "| ours | bouts, dsads, small_cnn | 100 | 1,000 | 20 | 20000 | 0.50 | 1, 1, 18 |",
        "| ours | dsads: position | small_cnn | 0.90, 0.40 | 25 | never | 1 of 4 | 1 of 5 |",
        "50 us of all detectors for a window, 500 us of inference: 10 %",
        "| sudden | 1 | 0.300 | **0.700** |",
        "40: -5, 44: not judged",
        "3 of 4 named in time, 2 windows trained on",
        "100 acknowledged, 0 without a prediction, 0 doubled",
        "| 7 J |",
    ):
        assert part in text, part
    assert "Through the real sockets" not in page(ROWS[:-1])


def test_the_picture_has_a_panel_for_each_scenario(tmp_path, monkeypatch):
    from benchmarks import stream_outcome

    drawn = []
    panel = stream_outcome._panel
    monkeypatch.setattr(
        stream_outcome, "_panel", lambda axes, rows: (drawn.append(axes), panel(axes, rows))
    )
    picture(ROWS, tmp_path / "f1.png")
    assert [axes.get_title("left").split(" (")[0] for axes in drawn] == ["sudden", "sensor faults"]
    first = {line.get_label() for line in drawn[0].lines}
    assert {"never", "edgetuner"} <= first
    assert (tmp_path / "f1.png").stat().st_size > 1000
