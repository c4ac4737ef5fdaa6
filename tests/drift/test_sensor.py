from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from benchmarks import faults as benchmark
from edgetuner.data import load
from edgetuner.drift import SensorCheck, SensorProfile, SensorSettings
from edgetuner.errors import DriftError
from tests.drift import turners, walkers

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
    assert (sensor.health.since_seq, sensor.health.channel) == (10, channel)


def test_ordinary_life_is_no_fault() -> None:
    sensor = check()
    for seq, x in enumerate(life(500, seed=2)):
        assert sensor.update(x, seq=seq) is None
        assert not sensor.health.suspect


def test_stillness_with_coarse_steps_is_not_clipping() -> None:
    """A sensor at rest shows two or three values, each of them often."""
    sensor = check()
    for x in life(20, seed=3):
        sensor.update(np.round(0.2 * x, 1) + 0.1 * np.eye(CHANNELS, LENGTH))
        assert not sensor.health.suspect


def test_one_bad_window_is_suspect_but_no_fault() -> None:
    sensor = check()
    good, bad, after = life(3, seed=1)
    sensor.update(good)
    assert sensor.update(flat(bad)) is None
    assert sensor.health.suspect
    assert sensor.update(after) is None
    assert not sensor.health.suspect


def test_a_fault_is_over_when_good_windows_persist() -> None:
    sensor = check(persistence=2)
    windows = life(7, seed=1)
    for x in windows[:2]:
        sensor.update(flat(x))
    reports = []
    for seq, x in enumerate(windows[2:], start=2):
        reports.append((sensor.update(x, seq=seq), sensor.health.suspect))
    assert reports == [
        ("flat_line", True),
        (None, False),
        (None, False),
        (None, False),
        (None, False),
    ]
    assert sensor.health.since_seq == 2
    assert sensor.health.channel is None


@given(st.lists(st.integers(0, 3), min_size=12, max_size=30), st.integers(1, 9))
def test_some_windows_at_once_are_the_same_as_one_by_one(kinds: list[int], together: int) -> None:
    """Of sound, flat and clipped windows, and others whose rate is wrong."""
    windows = life(len(kinds), seed=1)
    for x, kind in zip(windows, kinds, strict=True):
        if kind == 1:
            flat(x)
        elif kind == 2:
            x[2] = 1e3
    rates = [kind == 3 for kind in kinds]
    alone, some = check(), check()
    seen, expected = [], []
    for seq, x in enumerate(windows):
        expected += alone.look(x[None], [seq], rates[seq : seq + 1])
    for first in range(0, len(kinds), together):
        part = slice(first, first + together)
        seen += some.look(windows[part], range(len(kinds))[part], rates[part])
    assert seen == expected
    assert some.health == expected[-1]


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


def test_profile_with_all_parts_round_trips() -> None:
    x, recordings = walkers.source()
    profile = SensorProfile.fit(x, HZ, triads=walkers.TRIADS, recordings=recordings)
    again = SensorProfile.from_arrays(profile.to_arrays())
    settings = SensorSettings()
    changed = walkers.recording(2, 6, seed=3)
    changed[3:] *= 0.5
    one, other = (each.inspect(changed, settings) for each in (profile, again))
    assert (one.faults, one.channels) == (other.faults, other.channels)
    assert None in one.faults and "calibration" in one.faults
    assert one.features is not None and other.features is not None
    np.testing.assert_array_equal(one.features, other.features)


def test_an_older_bundle_is_checked_for_what_it_knows() -> None:
    x, recordings = walkers.source()
    profile = SensorProfile.fit(x, HZ, triads=walkers.TRIADS, recordings=recordings)
    old = {name: profile.to_arrays()[name] for name in ("low", "high", "hz")}
    sensor = SensorCheck(SensorProfile.from_arrays(old))
    for x in 0.5 * walkers.recording(0, 20, seed=1):
        assert sensor.update(x) is None
    for x in walkers.recording(0, 3, seed=1):
        x[1] = 0
        sensor.update(x)
    assert sensor.health.fault == "flat_line"


def test_a_size_that_cannot_be_is_reported_when_no_better_name_comes() -> None:
    x, recordings = walkers.source()
    profile = SensorProfile.fit(x, HZ, triads=walkers.TRIADS, recordings=recordings)
    sensor = SensorCheck(profile, SensorSettings(patience=5))
    seen = [sensor.update(w, seq=i) for i, w in enumerate(0.5 * walkers.recording(0, 6, seed=1))]
    assert seen == [None] * 4 + ["calibration"] * 2
    assert sensor.health.since_seq == 0


@given(
    st.lists(st.sampled_from([-1, 0, 86_400 * NS, -86_400 * NS, 2**62]), max_size=3),
    st.integers(3, 8),
)
def test_a_clock_that_leaps_is_no_fault_for_ever(leaps: list[int], apart: int) -> None:
    sensor = check(hop=HOP)
    step = int(HOP / HZ * NS)
    t_ns, seq = 1_000 * NS, 0
    for leap in leaps:
        t_ns += leap
        for x in life(apart):
            assert sensor.update(x, seq=seq, t_ns=t_ns) is None
            t_ns, seq = t_ns + step, seq + 1
    assert not (leaps and sensor.health.suspect)


@given(
    hnp.arrays(
        np.float32,
        (CHANNELS, LENGTH),
        elements=st.sampled_from([0.0, 1.0, -(2.0**100), 2.0**127, np.nan, np.inf, -np.inf]),
    )
)
@pytest.mark.filterwarnings("error")
def test_whatever_a_window_holds_it_is_judged(x: Signal) -> None:
    sensor = check(persistence=1)
    fault = sensor.update(x)
    assert fault in ("range", "flat_line", "clipping", None)
    if not np.isfinite(x).all():
        assert fault == "range"


@pytest.mark.parametrize("name", ["swapped_axes", "gain_of_all", "dropouts", "turned_axis"])
def test_faults_of_a_stranger_s_sensor_are_named(
    recordings: Callable[[str], Path], name: str
) -> None:
    """An arm of a person whom the profile does not know, walking."""
    arm = load(recordings("dsads")).select(position="right_arm")
    known = arm.take(arm.groups["subject"] <= 6)
    profile = SensorProfile.fit(known.x, known.hz, triads=(0, 3), recordings=known.recordings())
    walk = arm.select(subject=7).take(arm.select(subject=7).y == 8)
    sensor, x = SensorCheck(profile), walk.x[:40].copy()
    x[20:] = benchmark.FAULTS[name](x[20:], np.random.default_rng(0))
    seen = [sensor.update(window, seq=seq) for seq, window in enumerate(x)]
    assert seen[:20] == [None] * 20
    assert seen[39] in benchmark.NAMES[name]
    assert sensor.health.since_seq == 20


@pytest.mark.parametrize("position", ["left_arm", "torso", "right_leg", "left_leg"])
def test_a_sensor_worn_elsewhere_is_no_fault(
    recordings: Callable[[str], Path], position: str
) -> None:
    everywhere = load(recordings("dsads"))
    arm, other = (everywhere.select(position=p) for p in ("right_arm", position))
    profile = SensorProfile.fit(arm.x, arm.hz, triads=(0, 3), recordings=arm.recordings())
    for rows in arm.recordings()[::9]:
        sensor = SensorCheck(profile)
        for x in np.concatenate([arm.x[rows[:20]], other.x[rows[20:40]]]):
            assert sensor.update(x) is None


def test_a_dead_channel_is_named_whatever_else_is_wrong() -> None:
    sensor = check(persistence=3)
    windows = life(9, seed=1)
    for seq, x in enumerate(windows[:4]):
        sensor.update(x, seq=seq, hz=3 * HZ)
    assert sensor.health.fault == "rate"
    for seq, x in enumerate(windows[4:7], start=4):
        sensor.update(flat(x), seq=seq, hz=3 * HZ)
    assert (sensor.health.fault, sensor.health.channel, sensor.health.since_seq) == (
        "flat_line",
        1,
        4,
    )


def test_one_plain_fault_gives_way_to_the_next_and_to_what_stood_before_it() -> None:
    sensor, windows = check(persistence=2), life(10, seed=1)
    windows[2:4, 2] = 1e3
    for x in windows[4:6]:
        flat(x)
    named = [sensor.look(x[None], [seq], [seq < 8])[0].fault for seq, x in enumerate(windows)]
    assert named == [
        *(None, "rate", "rate", "range", "range"),
        *("flat_line", "flat_line", "rate", "rate", None),
    ]


@pytest.mark.parametrize(
    ("kinds", "since_seq", "fault"),
    [
        ("ffff..", 0, "flat_line"),  # two good ones are not enough
        ("fffrr.", 0, "flat_line"),  # nor is one after two others that are bad
        ("fff..r", 0, "flat_line"),
        ("fff...", 3, None),
        ("fffrrr", 3, "range"),
    ],
)
def test_good_windows_and_those_of_another_fault_are_counted_apart(
    kinds: str, since_seq: int, fault: str | None
) -> None:
    sensor, windows = check(persistence=3), life(6, seed=1)
    for x, kind in zip(windows, kinds, strict=True):
        if kind == "f":
            flat(x)
        elif kind == "r":
            x[2] = 1e3
    told = sensor.look(windows, range(6), [False] * 6)
    assert told[-1].fault == fault
    if fault != "flat_line":
        assert told[-1].since_seq == since_seq


def test_the_end_of_one_fault_is_not_that_of_another() -> None:
    x, recordings = walkers.source()
    profile = SensorProfile.fit(
        x, HZ, triads=walkers.TRIADS, accelerometers=(0,), recordings=recordings
    )
    walking, check = walkers.recording(3, 40, seed=7), SensorCheck(profile)
    turned = benchmark.FAULTS["turned_axis"](walking[12:20], np.random.default_rng(0))
    dead = np.repeat(walking[:1, :, :1], walkers.LENGTH, axis=2)
    seq = count()
    for window in [*walking[:12], *turned]:
        found = check.update(window, seq=next(seq))
    assert found == "axis_swap"
    for _ in range(3):
        found = check.update(dead[0], seq=next(seq))
    assert found == "flat_line"
    told = [check.update(window, seq=next(seq)) for window in walking[20:26]]
    assert told[:2] == ["flat_line", "flat_line"] and told[-1] is None


def test_a_fault_is_not_over_while_windows_show_another() -> None:
    """A gain that lasts is how things are for whoever compares; gravity still says otherwise."""
    x, recordings = walkers.source()
    profile = SensorProfile.fit(
        x, HZ, triads=walkers.TRIADS, accelerometers=(0,), recordings=recordings
    )
    walking = walkers.recording(0, 160, seed=7)
    walking[20:, :3] *= 0.5
    check = SensorCheck(profile)
    told = [check.update(window) for window in walking]
    named = next(i for i, fault in enumerate(told) if fault)
    assert named < 40 and None not in told[named:]


def test_a_wrong_size_is_named_while_axes_are_called_swapped() -> None:
    x, recordings = walkers.source()
    profile = SensorProfile.fit(
        x, HZ, triads=walkers.TRIADS, accelerometers=(0,), recordings=recordings
    )
    walking, check, seq = walkers.recording(3, 40, seed=7), SensorCheck(profile), count()
    turned = benchmark.FAULTS["turned_axis"](walking[12:], np.random.default_rng(0))
    for window in [*walking[:12], *turned[:8]]:
        found = check.update(window, seq=next(seq))
    assert found == "axis_swap"
    turned[:, :3] *= 0.5
    told = [check.update(window, seq=next(seq)) for window in turned[8:20]]
    assert told[-1] == "calibration"


def test_turns_tell_of_a_sensor_that_was_broken_from_the_beginning() -> None:
    x = turners.recording(60)
    known = {"triads": turners.TRIADS, "accelerometers": turners.POLAR}
    rows = [np.arange(30), np.arange(30, 60)]
    fitted = SensorProfile.fit(x, turners.HZ, **known, recordings=rows)
    profile = SensorProfile.from_arrays(fitted.to_arrays())
    assert profile.handedness is not None
    for matrix, fault in ((np.eye(3), None), (np.diag([1.0, -1.0, 1.0]), "axis_swap")):
        check = SensorCheck(profile)
        played = turners.turned(turners.recording(20, seed=1), matrix)
        for start in range(0, 20, 4):
            check.look(played[start : start + 4], range(start, start + 4), [False] * 4)
        assert check.health.fault == fault


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_end_of_a_wrong_size_is_no_other_fault(factor: float) -> None:
    """From the beginning on: a stream is not known by windows that are broken by themselves."""
    x, recordings = walkers.source()
    profile = SensorProfile.fit(
        x, HZ, triads=walkers.TRIADS, accelerometers=(0,), recordings=recordings
    )
    resting, check = walkers.recording(0, 60, seed=7), SensorCheck(profile)
    resting[:25, :3] *= factor
    told: list[str | None] = [None]
    for seq, window in enumerate(resting):
        fault = check.update(window, seq=seq)
        if fault != told[-1]:
            told.append(fault)
    assert told == [None, "calibration", None]
