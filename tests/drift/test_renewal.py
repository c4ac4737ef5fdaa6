from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.drift.cusum import Cusum, Spread
from edgetuner.drift.renewal import answered_alarms

SPREADS = {"near": Spread(1.0, 0.5), "sure": Spread(0.3, 1.0)}


def one_by_one(
    scores: dict[str, list[float]], kinds: list[int], thresholds: dict[str, float]
) -> int:
    """The same for one stream, with the detector that the service uses."""
    cusums = {name: Cusum(thresholds[name], SPREADS[name]) for name in SPREADS}
    ordinary: dict[str, dict[int, float]] = {name: {} for name in SPREADS}
    alarms = 0
    for t, kind in enumerate(kinds):
        for name, cusum in cusums.items():
            cusum.update(scores[name][t] - ordinary[name].get(kind, 0.0), kind)
        if any(cusum.drift_detected for cusum in cusums.values()):
            alarms += 1
            for name, cusum in cusums.items():
                for strange, effect in cusum.effects().items():
                    ordinary[name][strange] = ordinary[name].get(strange, 0.0) + effect
                cusum.reset()
    return alarms


@given(st.integers(0, 10_000), st.floats(-0.5, 2), st.integers(1, 5))
def test_it_counts_what_the_detectors_of_the_service_would(
    seed: int, mean: float, count: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = {name: rng.normal(mean, 1, (3, 80)) for name in SPREADS}
    kinds = rng.integers(0, count, (3, 80))
    thresholds = [{"near": 2.0, "sure": 3.0}, {"near": 6.0, "sure": 5.0}]
    expected = [
        sum(
            one_by_one({n: s[row].tolist() for n, s in scores.items()}, kinds[row].tolist(), level)
            for row in range(3)
        )
        for level in thresholds
    ]
    assert answered_alarms(scores, kinds, SPREADS, thresholds).tolist() == expected


def test_what_comes_again_and_again_is_told_but_a_few_times() -> None:
    scores = {name: np.full((1, 5000), 2.0) for name in SPREADS}
    kinds = np.arange(5000)[None] // 50 % 4
    [alarms] = answered_alarms(scores, kinds, SPREADS, [{"near": 3.0, "sure": 3.0}])
    assert 1 <= alarms <= 8
