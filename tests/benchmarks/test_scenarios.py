"""What happens in each scenario, and that nothing happens twice."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.faults import FAULTS
from benchmarks.scenarios import BURST, LABEL_EVERY, SCENARIOS, Cast

BEFORE, AFTER = 60, 240


@pytest.fixture
def cast(wave_home):
    return Cast(wave_home, BEFORE, AFTER, seed=0)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_window_comes_twice_and_the_same_seed_gives_the_same_stream(name, cast):
    stream = SCENARIOS[name](cast)
    samples = {x.tobytes() for x in stream.windows.x[~stream.faulty]}
    assert len(samples) == (~stream.faulty).sum() > 0.5 * len(stream)
    again = SCENARIOS[name](cast)
    assert np.array_equal(stream.windows.x, again.windows.x)
    assert np.array_equal(stream.label, again.label)
    assert all(0 < change < len(stream) for change in stream.changes)
    assert np.all(stream.due > np.arange(len(stream))), "nobody labels what has not come"


@pytest.mark.parametrize("name", ["stationary", "sudden", "gradual", "recurring", "late labels"])
def test_labels_are_few_and_true_where_nothing_else_is_said(name, cast):
    stream = SCENARIOS[name](cast)
    told = stream.label >= 0
    assert told.mean() == pytest.approx(1 / LABEL_EVERY, rel=0.05)
    assert np.array_equal(stream.label[told], stream.windows.y[told])


def _away(stream):
    return stream.windows.groups["position"] == 1


def test_a_sudden_change_is_complete_and_a_gradual_one_is_not(cast):
    sudden, gradual = (SCENARIOS[name](cast) for name in ("sudden", "gradual"))
    (change,) = sudden.changes
    assert not _away(sudden)[:change].any() and _away(sudden)[change:].all()
    (change,) = gradual.changes
    between = _away(gradual)[change : gradual.settled]
    assert not _away(gradual)[:change].any() and _away(gradual)[gradual.settled :].all()
    half = len(between) // 2
    assert between[:half].mean() < between[half:].mean() and 0 < between.mean() < 1
    assert not _away(SCENARIOS["stationary"](cast)).any()


def test_circumstances_recur(cast):
    stream = SCENARIOS["recurring"](cast)
    parts = np.split(_away(stream), stream.changes)
    assert [set(part.tolist()) for part in parts] == [{False}, {True}, {False}, {True}]


def test_late_labels_come_minutes_later_and_without_labels_none_come(cast):
    soon, late = (SCENARIOS[name](cast) for name in ("sudden", "late labels"))
    assert np.all((late.due - soon.due) * late.hop_s > 500)
    assert np.all(SCENARIOS["no labels"](cast).label == -1)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_so_many_labels_are_wrong(share, cast):
    stream = SCENARIOS[f"{100 * share:.0f} % wrong labels"](cast)
    told = stream.label >= 0
    wrong = stream.label[told] != stream.windows.y[told]
    assert wrong.mean() == pytest.approx(share, abs=0.09)


def test_two_classes_are_seen_for_half_of_the_time_and_all_afterwards(cast):
    stream = SCENARIOS["two classes"](cast)
    (change,) = stream.changes
    half = change + (len(stream) - change) // 3
    assert len(np.unique(stream.windows.y[change:half])) == 2
    assert len(np.unique(stream.windows.y[half:])) == 3


@pytest.mark.parametrize("name", ["attack", "attack at home"])
def test_an_attack_names_the_next_class_every_time_and_then_it_is_over(name, cast):
    stream = SCENARIOS[name](cast)
    told = np.flatnonzero(stream.label >= 0)
    lies = (stream.label[told] - stream.windows.y[told]) % 3
    assert set(lies.tolist()) == {0, 1}
    hostile = np.flatnonzero(lies)
    assert np.all(np.diff(hostile) == 1), "without exception"
    assert hostile[-1] < len(told) - 1, "it ends"
    assert bool(stream.changes) == (name == "attack")


def test_a_broken_sensor_is_broken_for_a_while_and_its_faults_are_known(cast):
    broken, sound = (SCENARIOS[name](cast) for name in ("sensor faults", "sudden"))
    changed = (broken.windows.x != sound.windows.x).any((1, 2))
    assert broken.faulty.any() and not broken.faulty[~changed].any()
    within = np.zeros(len(broken), bool)
    for name, first, end in broken.faults:
        assert name in FAULTS and broken.faulty[first] and end - first <= BURST
        within[first:end] = True
    assert not broken.faulty[~within].any()


def test_a_fault_that_changes_nothing_has_not_happened(cast):
    stream = SCENARIOS["sensor faults"](replace(cast, faults={"none": lambda x, _: x.copy()}))
    assert stream.faults == () and not stream.faulty.any()
