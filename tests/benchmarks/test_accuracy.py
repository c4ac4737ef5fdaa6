import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import accuracy, learners, sources  # noqa: E402
from benchmarks.accuracy import Plan  # noqa: E402
from benchmarks.learners import LEARNERS, Curve  # noqa: E402
from benchmarks.outcome import picture, summary, table  # noqa: E402
from benchmarks.shifts import Shift, case  # noqa: E402
from edgetuner.augment import Augmentation  # noqa: E402

CHANNELS, LENGTH, PER_CLASS = 3, 24, 80


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Three waves by two people at two places; at the second place everything is upside down."""
    draw = np.random.default_rng(0)
    x, y, subject, position, t = [], [], [], [], []
    for person in (1, 2):
        for place in (0, 1):
            for k in range(3):
                for number in range(PER_CLASS):
                    phase = draw.uniform(0, 2 * np.pi, (CHANNELS, 1))
                    wave = np.sin((k + 1) * np.linspace(0, 6, LENGTH) + phase) + k
                    noise = draw.normal(0, 0.3, (CHANNELS, LENGTH))
                    x.append((1 - 2 * place) * (wave + noise))
                    for column, value in zip(
                        (y, subject, position, t), (k, person, place, number), strict=True
                    ):
                        column.append(value)
    path = tmp_path_factory.mktemp("set") / "waves.npz"
    np.savez(
        path,
        X=np.array(x, np.float32),
        y=np.array(y),
        subject=np.array(subject),
        position=np.array(position),
        t=np.array(t),
        classes=np.array(["slow", "brisk", "fast"]),
        channels=np.array(["acc_x", "acc_y", "acc_z"]),
        positions=np.array(["wrist", "ankle"]),
        hz=np.float64(12),
    )
    return path


@pytest.fixture
def shift(recordings, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(sources, "CACHE", tmp_path_factory.getbasetemp() / "sources")
    quick = replace(sources.RECIPE, epochs=4, augmentation=Augmentation())
    monkeypatch.setattr(sources, "RECIPE", quick)
    monkeypatch.setattr(learners, "STEPS", 8)
    monkeypatch.setattr(accuracy, "_quietly", lambda: None)
    return Shift(str(recordings), "upside down", {"position": 0}, {"position": 1})


def test_what_is_learned_lies_before_the_test_and_neither_is_known_at_home(shift):
    at = case(shift, "small_cnn")
    assert len(at.pool) + len(at.test) == 2 * 3 * PER_CLASS
    for person in (1, 2):
        for k in range(3):
            early, late = (
                side.groups["t"][(side.y == k) & (side.groups["subject"] == person)]
                for side in (at.pool, at.test)
            )
            assert early.max() < late.min()
    assert set(at.pool.groups["position"]) == {1} and set(at.home.groups["position"]) == {0}
    few = at.labelled(5, seed=0)
    assert np.bincount(few.y).tolist() == [5, 5, 5]
    assert not np.array_equal(few.x, at.labelled(5, seed=1).x)
    assert len(at.labelled(None, seed=0)) == len(at.pool)


def test_a_stranger_is_nobody_whom_the_source_knows(shift):
    alone = replace(shift, strangers=(2,))
    at = case(alone, "small_cnn", stranger=2)
    assert set(at.home.groups["subject"]) == {1}
    assert set(at.pool.groups["subject"]) == set(at.test.groups["subject"]) == {2}


def test_every_method_gives_a_row_and_a_curve(shift):
    rates = {name: rates[0] for name, (_, rates) in LEARNERS.items() if rates}
    rows = accuracy.run(Plan(shift, "small_cnn", 5, 0, tuple(LEARNERS), rates))
    assert [row["method"] for row in rows] == list(LEARNERS)
    for row in rows:
        assert 0 <= row["f1_target"] <= 1 and row["seconds_total"] > 0
        assert row["f1_source_before"] > 0.9
    by_name = {row["method"]: row for row in rows}
    assert by_name["full"]["trained_fraction"] == 1.0
    assert by_name["full"]["seconds_to_100"] <= by_name["full"]["seconds_total"]
    assert by_name["closed_head"]["f1_target"] > by_name["closed_head"]["f1_zero_shot"]
    assert by_name["closed_head"]["trained_fraction"] == by_name["statistics"]["trained_fraction"]
    assert 0 < by_name["ladder"]["trained_fraction"] <= 0.0149
    measured = {"mean_gap", "worst_gap", "gap_at_5_labels", "retain_forgetting", "retain_gap"}
    assert set(summary(rows)) >= measured


def test_somebody_who_has_shown_two_classes_is_learned_from_and_tested_on_all(shift, monkeypatch):
    seen = []

    def learn(trial, labelled, seed, rate):
        seen.append((trial, labelled))
        return Curve([(1.0, 0.5)])

    monkeypatch.setitem(LEARNERS, "head", (learn, ()))
    for budget in (5, None):
        accuracy.run(Plan(shift, "small_cnn", budget, 0, ("head",), {}, classes=2))
    for trial, labelled in seen:
        assert len(np.unique(labelled.y)) == len(np.unique(trial.pool.y)) == 2
        assert len(np.unique(trial.test.y)) == 3


def test_a_learning_rate_is_chosen_without_a_look_at_the_test(shift, monkeypatch):
    at = case(shift, "small_cnn")
    seen = []

    def learn(trial, labelled, seed, rate):
        seen.append((trial, labelled))
        return Curve([(1.0, {0.1: 0.3, 0.2: 0.9, 0.3: 0.5}[rate])])

    monkeypatch.setitem(LEARNERS, "head", (learn, (0.1, 0.2, 0.3)))
    asked = Plan(shift, "small_cnn", 5, 0, ("head", "ladder"), {})
    monkeypatch.setattr(accuracy, "_quietly", lambda: None)
    assert accuracy.tune(asked) == {"head": 0.2}, "ours has nothing to choose"
    tested = {row.tobytes() for row in at.test.x}
    for trial, labelled in seen:
        used = [*labelled.x, *trial.test.x]
        assert tested.isdisjoint(row.tobytes() for row in used)
        assert {r.tobytes() for r in labelled.x}.isdisjoint(r.tobytes() for r in trial.test.x)


def row(method, f1, to_95, total, budget=5, seed=0):
    return {
        "dataset": "d",
        "shift": "s",
        "backbone": "b",
        "labels_per_class": budget,
        "seed": seed,
        "method": method,
        "f1_target": f1,
        "f1_zero_shot": 0.2,
        "f1_source_before": 0.9,
        "f1_source_after": 0.8,
        "trained_fraction": 0.01,
        "points": [[total / 2, f1 / 2], [total, f1]],
        "seconds_to_95": to_95,
        "seconds_total": total,
    }


def test_the_summary_is_over_settings_and_runs():
    rows = [
        *(row("full", 0.9, 10.0, 20.0, budget) for budget in (5, None)),
        row("ladder", 0.88, 1.0, 2.0, 5),
        row("ladder", 0.93, 2.5, 3.0, None),
        *(row("lora_c", 0.8, None, 16.0, budget) for budget in (5, None)),
    ]
    found = summary(rows)
    assert found["mean_gap"] == pytest.approx(-0.5)
    assert found["worst_gap"] == found["gap_at_5_labels"] == pytest.approx(2.0)
    assert found["speedup_95_vs_full"] == pytest.approx((10 * 4) ** 0.5)
    assert found["speedup_95_vs_lora_c"] == pytest.approx((16 * 6.4) ** 0.5)
    assert "retain_gap" not in found, "what was not measured is absent"
    assert summary([rows[0]]) == {}
    kept = summary([*rows, *(row("retain", 0.87, 1.0, 2.0, budget) for budget in (5, None))])
    assert kept["retain_gap"] == pytest.approx(3.0)
    assert kept["retain_forgetting"] == pytest.approx(10.0)


def test_the_table_and_the_picture_show_every_method(tmp_path):
    rows = [
        row(method, f1, 1.0, 2.0, budget)
        for method, f1 in (("full", 0.9), ("lora_c", 0.8), ("ladder", 0.92))
        for budget in (5, None)
    ]
    page = table(rows)
    assert "| LoRA-C | 1.00 % | 0.800" in page and "| +10.0 | +10.0 | 2 / 2 |" in page
    assert "| **the ladder** (`follow`) |" in page and "| b | -2.0 (1) | -2.0 (1) |" in page
    picture(rows, tmp_path / "f1.png")
    assert (tmp_path / "f1.png").read_bytes()[:4] == b"\x89PNG"
    unfinished = [*rows, *(one | {"backbone": "c"} for one in rows if one["labels_per_class"])]
    unfinished += [one | {"backbone": "c", "labels_per_class": 3} for one in rows[:1]]
    picture(unfinished, tmp_path / "f1.png")


def test_the_clock_stands_still_while_it_is_looked_at(shift, monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(learners.time, "perf_counter", lambda: float(next(now)))
    watch = learners.Watch(case(shift, "small_cnn"))
    for _ in range(3):
        watch.look(watch.case.module)
    # every reading of the clock is ten seconds on: three of work, and three of looking
    assert [seconds for seconds, _ in watch.curve.points] == [10.0, 20.0, 30.0]


def test_the_command_takes_a_set_of_ones_own(shift, tmp_path, monkeypatch, capsys):
    class Inline:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        map = staticmethod(lambda function, plans: [function(plan) for plan in plans])

    monkeypatch.setattr(accuracy, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(accuracy, "_quietly", lambda: None)
    path = tmp_path / "accuracy.json.gz"
    beside = tmp_path / "accuracy.json"
    arguments = ["--data", shift.dataset, "--source", "position=0", "--target", "position=1"]
    arguments += ["--backbones", "small_cnn", "--budgets", "5,all", "--seeds", "1"]
    arguments += ["--methods", "full,ladder", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["accuracy", *arguments])
    accuracy.main()
    assert beside.with_suffix(".md").exists() and beside.with_suffix(".png").exists()
    rows = accuracy.result_of(path)["rows"]
    assert [(r["labels_per_class"], r["method"]) for r in rows] == [
        (budget, method) for budget in (5, None) for method in ("full", "ladder")
    ]
    assert "the ladder" in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["accuracy", *arguments, "--resume", "--seeds", "2"])
    accuracy.main()
    further = accuracy.result_of(path)["rows"]
    assert further[: len(rows)] == rows, "what was measured is not measured again"
    assert [row["seed"] for row in further] == [0] * 4 + [1] * 4
    assert "2 seeds each" in beside.with_suffix(".md").read_text()
