"""The command: units of work, resumed where a run was ended."""

import json
import sys

import pytest

pytest.importorskip("torch")

from benchmarks import stream
from benchmarks.scenarios import SCENARIOS
from benchmarks.shifts import SHIFTS
from benchmarks.stream import FULL, QUICK, Unit


class _Here:
    """Does the work at once, in this process."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, work):
        from concurrent.futures import Future

        future = Future()
        future.set_result(work())
        return future


@pytest.fixture
def command(monkeypatch, tmp_path):
    monkeypatch.setattr(stream, "ProcessPoolExecutor", _Here)
    path = tmp_path / "stream.json"

    def run(*arguments, units=None):
        if units is not None:
            monkeypatch.setattr(stream, "units", lambda options: units)
        monkeypatch.setattr(sys, "argv", ["stream", "--json", str(path), *arguments])
        stream.main()
        return json.loads(path.read_text())

    return run


def _asked(*arguments):
    return [unit.name for unit in stream.units(stream._parser().parse_args(arguments))]


def test_every_unit_has_a_name_of_its_own_and_every_scenario_is_played():
    names = _asked()
    assert len(set(names)) == len(names)
    for scenario in SCENARIOS:
        assert any(f", {scenario}, seed 0" in name for name in names)
    for size in (FULL, QUICK):
        known = {(shift.dataset, shift.name) for shift in SHIFTS}
        assert {run[:2] for run in size.runs} <= known


def test_quick_is_one_set_and_needs_nothing_but_what_is_installed():
    assert all("dsads" not in name and "motionsense" not in name for name in _asked("--quick"))


def test_parts_can_be_asked_for():
    whole = set(_asked())
    detection, runs = set(_asked("--detection-only")), set(_asked("--runs-only"))
    assert not detection & runs and detection | runs | {"live"} == whole
    some = _asked("--runs-only", "--scenarios", "sudden,attack", "--datasets", "seglearn")
    assert [name.split(", ")[3] for name in some] == ["sudden", "attack"]
    own = _asked("--data", "own.npz", "--source", "position=0", "--target", "position=1")
    assert "run own.npz, position=0 to position=1, small_cnn, sudden, seed 0" in own


def test_a_resumed_run_does_what_is_missing_and_keeps_what_was_there(command):
    done = []

    def work(name):
        return lambda: done.append(name) or [{"kind": "other", "of": name}]

    units = [Unit(name, work(name)) for name in ("a", "b")]
    assert [row["unit"] for row in command(units=units[:1])["rows"]] == ["a"]
    result = command("--resume", units=units)
    assert done == ["a", "b"]
    assert [(row["unit"], row["of"]) for row in result["rows"]] == [("a", "a"), ("b", "b")]
    assert result["summary"] == {}


def test_false_alarms_of_a_source_are_measured_once(monkeypatch):
    seen = []
    monkeypatch.setattr(stream, "detected", lambda *arguments: seen.append(arguments) or [])
    for unit in stream.detection_units(SHIFTS, ("small_cnn",), QUICK, 0):
        if unit.name.startswith("detection"):
            unit.work()
    at_home = [(s.dataset, dict(s.source)) for s, _, _, _, first in seen if first]
    assert len(seen) == len(SHIFTS)
    assert at_home == [
        ("dsads", {"position": "right_arm"}),
        ("dsads", {"position": "right_leg"}),
        ("motionsense", {}),
        ("seglearn", {"position": "right_wrist"}),
    ]


def test_a_learning_rate_is_that_of_the_accuracy_benchmark_or_a_plain_one():
    assert stream.learning_rate("dsads", "small_cnn") in (3e-4, 1e-3, 3e-3)
    assert stream.learning_rate("own.npz", "small_cnn") == 1e-3
