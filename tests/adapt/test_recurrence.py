from __future__ import annotations

from pathlib import Path

import pytest

from edgetuner.adapt.gate import Verdict
from edgetuner.adapt.recurrence import Recurrence, at_home, knows
from edgetuner.bundle import Manifest, read_manifest
from edgetuner.config import GateConfig

GATE = GateConfig(min_windows=10, max_p_value=0.1)


@pytest.fixture
def manifest(wave_bundle: Path) -> Manifest:
    return read_manifest(wave_bundle)


def of_home(manifest: Manifest, f1: float | None) -> Manifest:
    metrics = {} if f1 is None else {"held_out_macro_f1": f1}
    description = manifest.description.model_copy(update={"metrics": metrics})
    return manifest.model_copy(update={"description": description, "metrics": metrics})


def test_it_is_asked_as_soon_as_the_gate_could_tell_and_then_at_half_as_many_labels_more() -> None:
    one, asked = Recurrence({}), []
    for labels in range(100):
        if one.due(labels, GATE):
            asked.append(labels)
            one.ask(labels, GATE, 1)
    assert asked == [10, 15, 23, 35, 53, 80]


def test_all_chances_together_are_no_more_than_those_of_one_candidate() -> None:
    one = Recurrence({})
    levels = [one.ask(10 * 2**n, GATE, 3).max_p_value for n in range(5)]
    assert levels == [pytest.approx(0.1 / 3)] * 5, "evidence may be looked at as often as one likes"
    assert Recurrence({}).ask(10, GATE, 0).max_p_value == GATE.max_p_value


@pytest.mark.parametrize(
    ("f1", "home", "as_at_home"),
    [(0.91, 0.95, True), (0.86, 0.95, True), (0.84, 0.95, False), (0.2, None, True),
     (None, 0.95, False)],
)  # fmt: skip
def test_a_version_that_has_lost_much_since_its_own_time_is_left_to_training(
    manifest: Manifest, f1: float | None, home: float | None, as_at_home: bool
) -> None:
    then = of_home(manifest, home)
    assert at_home(f1, then) == as_at_home
    assert knows(Verdict(True, "", 20, candidate_f1=f1), then) == as_at_home
    assert not knows(Verdict(False, "", 20, candidate_f1=f1), then)


def test_training_waits_until_earlier_versions_could_be_asked() -> None:
    gate = GateConfig()
    recurrence = Recurrence({("c", "s"): 7})
    assert recurrence.waits(0, gate, with_labels=True) is None  # there is none to ask
    recurrence.versions = 2
    assert f"{gate.min_windows} are needed" in (recurrence.waits(1, gate, with_labels=True) or "")
    assert recurrence.waits(gate.min_windows, gate, with_labels=True) is None
    recurrence.ask(gate.min_windows, gate, 2)
    assert recurrence.waits(0, gate, with_labels=True) is None
    recurrence.promising = True
    assert "20 are needed" in (recurrence.waits(15, gate, with_labels=True) or "")
    assert recurrence.waits(15, gate, with_labels=False) is None, "no more will come"
    assert recurrence.waits(20, gate, with_labels=True) is None
    recurrence.ask(15, gate, 2)
    assert recurrence.waits(15, gate, with_labels=True) is None, "and it was not ahead any more"
