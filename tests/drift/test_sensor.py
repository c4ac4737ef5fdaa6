from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetuner.drift import SensorCheck, SensorProfile, SensorSettings
from edgetuner.errors import DriftError

HZ, HOP, CHANNELS, LENGTH = 50.0, 64, 3, 128
NS = 1_000_000_000
Signal = NDArray[np.float64]


def life(count: int, seed: int = 0) -> Signal:
    """Windows (N, C, T) of somebody who swings an arm, now more, now less."""
    rng = np.random.default_rng(seed)
    swing = rng.uniform(0.05, 1, (count, CHANNELS, 1)) * np.sin(np.linspace(0, 12, LENGTH))
    return swing + 0.05 * rng.normal(size=(count, CHANNELS, LENGTH))


def check(**settings: int) -> SensorCheck:
    return SensorCheck(SensorProfile.fit(life(200), HZ), SensorSettings(**settings))


def flat(x: Signal) -> Signal:
    x[1] = x[1, 0]
    return x


def clipped(x: Signal) -> Signal:
    return np.clip(np.sin(np.linspace(0, 12, LENGTH)) + 0 * x, -0.7, 0.7)


def wrong_unit(x: Signal) -> Signal:
    return x * 9.81 + 9.81


def not_a_number(x: Signal) -> Signal:
    x[0, 5] = np.nan
    return x


FAULTS = [(flat, "flat_line", 1), (clipped, "clipping", 0), (wrong_unit, "range", 0)]


@pytest.mark.parametrize(("spoil", "fault", "channel"), [*FAULTS, (not_a_number, "range", 0)])
def test_a_fault_is_reported_when_it_persists(
    spoil: Callable[[Signal], Signal], fault: str, channel: int
) -> None:
    sensor = check(persistence=3)
    seen = [sensor.update(spoil(x), seq=10 + i) for i, x in enumerate(life(4, seed=1))]
    assert seen == [None, None, fault, fault]
    assert (sensor.since_seq, sensor.channel) == (10, channel)


def test_ordinary_life_is_no_fault() -> None:
    sensor = check()
    for seq, x in enumerate(life(500, seed=2)):
        assert sensor.update(x, seq=seq) is None
        assert not sensor.suspect


def test_stillness_with_coarse_steps_is_not_clipping() -> None:
    """A sensor at rest shows two or three values, each of them often."""
    sensor = check()
    for x in life(20, seed=3):
        sensor.update(np.round(0.2 * x, 1) + 0.1 * np.eye(CHANNELS, LENGTH))
        assert not sensor.suspect


def test_one_bad_window_is_suspect_but_no_fault() -> None:
    sensor = check()
    good, bad, after = life(3, seed=1)
    sensor.update(good)
    assert sensor.update(flat(bad)) is None
    assert sensor.suspect
    assert sensor.update(after) is None
    assert not sensor.suspect


def test_a_fault_is_over_when_good_windows_persist() -> None:
    sensor = check(persistence=2)
    windows = life(7, seed=1)
    for x in windows[:2]:
        sensor.update(flat(x))
    reports = []
    for seq, x in enumerate(windows[2:], start=2):
        reports.append((sensor.update(x, seq=seq), sensor.suspect))
    assert reports == [
        ("flat_line", True),
        (None, False),
        (None, False),
        (None, False),
        (None, False),
    ]
    assert sensor.since_seq == 2
    assert sensor.channel is None


@pytest.mark.parametrize(("hz", "fault"), [(50.0, None), (49.0, None), (100.0, "rate")])
def test_stated_rate(hz: float, fault: str | None) -> None:
    sensor = check(persistence=1)
    assert sensor.update(life(1)[0], hz=hz) == fault


@pytest.mark.parametrize(
    ("stretch", "fault"), [(1.0, None), (1.1, None), (2.0, "rate"), (0.5, "rate")]
)
def test_rate_from_time_stamps(stretch: float, fault: str | None) -> None:
    sensor = check(hop=HOP)
    step = int(stretch * HOP / HZ * NS)
    for seq in (0, 1, 2, 5, 6):  # a gap in the numbers is not a fault
        found = sensor.update(life(1)[0], seq=seq, t_ns=seq * step)
    assert found == fault


def test_time_stamps_tell_nothing_without_the_hop() -> None:
    sensor = check(persistence=1)
    for seq in range(5):
        assert sensor.update(life(1)[0], seq=seq, t_ns=0) is None


def test_clocks_that_stand_still_or_run_back_are_a_fault() -> None:
    sensor = check(persistence=1, hop=HOP)
    sensor.update(life(1)[0], seq=0, t_ns=NS)
    assert sensor.update(life(1)[0], seq=1, t_ns=0) == "rate"


def test_profile_round_trip() -> None:
    profile = SensorProfile.fit(life(10), HZ)
    again = SensorProfile.from_arrays(profile.to_arrays())
    np.testing.assert_array_equal(again.low, profile.low)
    np.testing.assert_array_equal(again.high, profile.high)
    assert again.hz == HZ
    with pytest.raises(DriftError, match="sensor profile is incomplete"):
        SensorProfile.from_arrays({})


@pytest.mark.parametrize("x", [np.zeros((0, 3, 128)), np.zeros((5, 128))])
def test_profile_needs_windows(x: Signal) -> None:
    with pytest.raises(DriftError, match="not a set of windows"):
        SensorProfile.fit(x, HZ)


def test_profile_names_dead_channels() -> None:
    x = life(10)
    x[:, 1] = 0
    with pytest.raises(DriftError, match=r"constant in all source windows.*got \[1\]"):
        SensorProfile.fit(x, HZ)
