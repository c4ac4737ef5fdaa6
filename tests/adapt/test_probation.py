from __future__ import annotations

import numpy as np

from edgetuner.adapt.betting import wealth
from edgetuner.adapt.probation import Probation
from edgetuner.config import ProbationConfig
from edgetuner.store import Context

SETTINGS = ProbationConfig(labels=30, windows=500, max_p_value=0.05)


def probation(
    wins: int = 0, losses: int = 0, both: int = 0, windows: int = 0, *, shared: bool = False
) -> Probation:
    pairs = [(True, False)] * wins + [(False, True)] * losses + [(True, True)] * both
    return Probation(None, {}, shared, windows, dict(enumerate(pairs)))  # type: ignore[arg-type]


def test_who_shares_his_answers_stays_unless_he_is_shown_to_be_worse() -> None:
    assert probation(wins=3, losses=4, both=23).verdict(SETTINGS) == "worse"
    assert probation(wins=3, losses=4, both=23, shared=True).verdict(SETTINGS) == "proven"
    assert probation(losses=9, shared=True).verdict(SETTINGS) == "worse"


def labelled(rows: list[int], y: list[int], predicted: list[int], versions: str) -> Context:
    """Labelled windows, and what each version, a letter, said of one when it came."""
    none = np.zeros(len(rows), np.int64)
    return Context(
        (("c", "s"),), np.zeros((len(rows), 1, 1), np.float32), np.array(y),
        np.array(predicted), np.array(predicted),
        none.astype(float), np.array(rows), none, none, none, np.array(list(versions)), {},
    )  # fmt: skip


def test_every_window_that_the_new_version_predicted_is_compared_once() -> None:
    one = probation()
    windows = labelled([3, 5, 6, 9], y=[0, 1, 2, 2], predicted=[0, 0, 2, 2], versions="bbab")
    unseen = one.unseen(windows, "b")
    assert unseen.row.tolist() == [3, 5, 9], "the version before predicted one of them"
    one.compare(unseen, unseen.predicted, np.array([0, 1, 0]))
    assert one.right == {3: (True, True), 5: (False, True), 9: (True, False)}
    assert (one.wins, one.losses) == (1, 1)
    assert len(one.unseen(windows, "b")) == 0
    more = labelled([9, 11], y=[2, 1], predicted=[2, 1], versions="bb")
    assert one.unseen(more, "b").row.tolist() == [11]


def test_a_worse_version_is_taken_back_as_soon_as_that_is_clear() -> None:
    assert probation(losses=6).verdict(SETTINGS) is None
    assert probation(losses=7).verdict(SETTINGS) == "worse"
    assert probation(losses=9, wins=1).verdict(SETTINGS) is None
    assert probation(losses=10, wins=1).verdict(SETTINGS) == "worse"


def test_at_the_end_the_new_version_stays_unless_it_was_right_less_often() -> None:
    assert probation(wins=1, losses=1, both=27).verdict(SETTINGS) is None
    assert probation(wins=1, losses=1, both=28).verdict(SETTINGS) == "proven"
    assert probation(wins=1, losses=2, both=27).verdict(SETTINGS) == "worse"
    assert probation(windows=500).verdict(SETTINGS) == "proven", "nobody labels any more"
    assert probation(losses=1, windows=500).verdict(SETTINGS) == "worse"


def test_its_numbers_are_told() -> None:
    one = probation(wins=3, losses=1, both=2, windows=40)
    assert one.to_wire() == {
        **{"windows": 40, "labels": 6, "wins": 3, "losses": 1},
        "evidence": round(wealth(1, 3), 3),
    }
    assert "3 times" in one.summary() and "6 labelled of 40" in one.summary()
