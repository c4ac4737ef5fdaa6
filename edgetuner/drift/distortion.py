"""A sensor whose channels are swapped, turned, scaled, shifted or sampled otherwise than before.

Each of these faults is a map, the same for every window from its beginning on. Undone, it takes
the windows after back to what they were before: the same activity of the same person, up to the
variation that is usual within a bout. A change of the world (another activity, person or place on
the body) also makes a leap, but none of a few dozen exact maps undoes it. So the evidence is a
likelihood ratio: how much better the best map explains the windows after than "nothing changed"
does, provided that it explains them as well as the windows of one bout explain each other.

A wearer can turn the sensor, and can wear it on the other side of the body, which mirrors it. Both
are signed permutations too, and the world's, not the sensor's. So a map must also explain the
windows better than these do. Half a turn of all sensors together cannot: it is what wearing them
upside down does, nothing within the sensor tells the two apart, and a model can learn either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Floats, Summary, pairs

AXES, GAIN, OFFSET, RATE = "axis_swap", "gain", "offset", "rate"
WORN = ""  # a map that is no fault: the sensor is worn otherwise

_MEMORY = 12  # windows that a bout is remembered by
_AT_ONCE = 4  # windows that a bout of so many takes in together
_KNOWN = 4  # windows without which nothing is compared with a bout
_PRIOR = 2.0  # windows that the source's variation counts for beside a bout's own
_WANDER = 0.25  # variance of a bout's slow changes, in units of that between neighbouring windows
_CAP = 8.0  # deviations beyond which a feature says no more: one odd feature is not everything
_ODD = 5.0  # deviations of a single feature that are a leap
_MIN_SHIFT = 0.25  # of the range of a channel's means in the source
_HOPELESS = 4.5  # limits beyond which more windows will not help
_PLAIN = 70.0  # evidence that needs no second look
_LOOSE, _REST = 3.0, 0.35  # a worse fit will do, if it leaves but this share of the misfit
_MIN_GAIN, _MIN_RATE = np.log(1.25), np.log(1.55)
# What a map costs in evidence: one whose number is fitted, and not chosen from a few, pays for it,
# and a rate more, since people differ in pace.
_PRICE = {WORN: 0.0, AXES: 0.0, GAIN: 3.0, OFFSET: 3.0, RATE: 12.0}
_MIN_SOURCE = 20  # pairs of neighbouring windows, to know what is usual


@dataclass(frozen=True)
class DistortionSettings:
    """When a leap is a fault.

    Attributes:
        looks: numbers of windows after a leap at which it is judged.
        leap: how far a window must lie from its bout to be a leap, in units of the usual.
        fit: how well a map must explain the windows after, in the same units.
        evidence: least logarithm of the likelihood ratio between the best map and none.
        doubt: the same between the best map and wearing the sensor otherwise.
        bouts: earlier bouts of the stream that windows after a leap are compared with, too.
        lasting: windows after which a fault is taken for the way that things are from now on. Then
            the windows before tell no more, and what a map does to windows a model can learn.
    """

    looks: tuple[int, ...] = (2, 5, 9, 12)
    leap: float = 1.0
    fit: float = 1.0
    evidence: float = 15.0
    doubt: float = 10.0
    bouts: int = 4
    lasting: int = 100


@dataclass(frozen=True, eq=False)
class Usual:
    """How windows of one bout differ in the source.

    Attributes:
        floor: variance of each channel below which nothing is told apart (C,).
        spread: standard deviation between windows of a bout, of each feature (F,); that of means
            in units of the window's own standard deviation.
        reach: range of each channel's means in the source, physical units (C,).
        limit: misfit that three quarters of the source's bouts stay below.
        triads: first channel of each sensor of three axes.
        polar: those of them that are accelerometers.
    """

    floor: NDArray[np.float32]
    spread: NDArray[np.float32]
    reach: NDArray[np.float32]
    limit: float
    triads: tuple[int, ...] = ()
    polar: tuple[int, ...] = ()

    @classmethod
    def fit(
        cls,
        summaries: Summary,
        recordings: Sequence[NDArray[np.int64]],
        triads: Sequence[int] = (),
        polar: Sequence[int] = (),
    ) -> Usual | None:
        """From the source's N windows; None if its recordings are too short to tell.

        Args:
            summaries: of the windows.
            recordings: rows of each recording of one activity, in time order.
            triads: first channel of each sensor of three axes.
            polar: those of them that are accelerometers.
        """
        channels = summaries.mean.shape[1]
        deviation = np.sqrt(summaries.variance)
        floor = np.square(np.quantile(deviation, 0.02, axis=0) / 2) + 1e-12
        features = summaries.features(floor)
        steps = [np.diff(features[rows], axis=0) for rows in recordings]
        if sum(map(len, steps)) < _MIN_SOURCE:
            return None
        own = np.sqrt(summaries.variance + floor)
        for rows, step in zip(recordings, steps, strict=True):
            step[:, :channels] /= own[rows[1:]]
        # The 70 % quantile of |difference| / sqrt 2 is about a standard deviation, and robust.
        spread = np.quantile(np.abs(np.concatenate(steps)), 0.7, axis=0) / np.sqrt(2)
        for block in _blocks(channels):
            if spread[block].size:  # one channel correlates with none
                spread[block] = np.sqrt(np.square(spread[block]).mean())
        lowest, highest = np.quantile(summaries.mean, [0.01, 0.99], axis=0)
        reach = highest - lowest
        usual = cls(_single(floor), _single(spread), _single(reach), np.inf)
        misfits = [m for rows in recordings for m in usual._misfits(features[rows])]
        if not misfits:
            return None
        limit = float(np.quantile(misfits, 0.75))
        return replace(usual, limit=limit, triads=tuple(triads), polar=tuple(polar))

    def _misfits(self, features: Floats) -> list[float]:
        """Misfits of three windows to the six before, all along a recording (n, F)."""
        found = []
        for start in range(0, len(features) - 8, 3):
            bout = Bout(features[start], self)
            for row in features[start + 1 : start + 6]:
                bout.add(row[None])
            after = features[start + 6 : start + 9].mean(0)
            found.append(float(bout.misfit(after, 3)))
        return found

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """As numeric arrays, for a safetensors file."""
        return {
            "usual_floor": self.floor,
            "usual_spread": self.spread,
            "usual_reach": self.reach,
            "usual_limit": np.array([self.limit], np.float32),
            "triads": np.array(self.triads, np.float32),
            "polar": np.array(self.polar, np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Usual | None:
        """What `to_arrays` described; None where a bundle was made without it."""
        try:
            limit = float(arrays["usual_limit"][0])
            triads, polar = (tuple(map(int, arrays[name])) for name in ("triads", "polar"))
            floor, spread, reach = (arrays[f"usual_{n}"] for n in ("floor", "spread", "reach"))
            return cls(floor, spread, reach, limit, triads, polar)
        except (KeyError, IndexError):
            return None


def _single(values: Floats) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _blocks(channels: int) -> tuple[slice, ...]:
    """Means, levels, correlations and roughness within the features."""
    return (
        slice(channels),
        slice(channels, 2 * channels),
        slice(2 * channels, -channels),
        slice(-channels, None),
    )


def _misfit(distance: Floats) -> Floats:
    """Negative log-likelihood of features at such a distance (..., F), each one's capped."""
    misfit: Floats = 0.5 * np.add.reduce(np.minimum(distance, _CAP**2), -1)
    return misfit


class Bout:
    """Running mean and variance of the features of one activity's latest windows."""

    __slots__ = ("_prior", "_usual", "_weight", "count", "mean", "variance")

    def __init__(self, features: Floats, usual: Usual) -> None:
        self._usual = usual
        self.count = 1
        self.mean = features
        self.variance = np.zeros_like(features)
        self._prior = self._expected()
        self._weight = 1 / self._prior

    def add(self, features: Floats) -> None:
        """Takes in some more windows (n, F)."""
        before, more = self.count, len(features)
        self.count = min(before + more, _MEMORY)
        step = features - self.mean
        square = step * step
        if more == 1:  # a sum of one takes as long as any
            total, squares = step[0], square[0]
        else:
            total, squares = np.add.reduce(step), np.add.reduce(square)
        self.mean = self.mean + total / self.count
        grown = squares - more * self.variance
        self.variance = self.variance + grown / self.count
        if before < 3 <= self.count or before < _MEMORY == self.count:
            self._prior = self._expected()
        self._weight = 1 / (self._prior + self.count * self.variance)

    def _expected(self) -> Floats:
        """What the variance should be after the source; that of means follows the level (F,)."""
        channels = len(self._usual.floor)
        variance: Floats = _PRIOR * self._usual.spread * self._usual.spread
        variance[:channels] *= np.exp(2 * self.mean[channels : 2 * channels])
        return variance

    def distance(self, features: Floats, count: int) -> Floats:
        """Squared distance of the means (..., F) of `count` windows, in units of the usual."""
        step = features - self.mean
        distance: Floats = step * step * self.precision(count)
        return distance

    def precision(self, count: int) -> Floats:
        """What a squared step of the means of `count` windows counts (F,)."""
        scale = (1 / self.count + 1 / count + _WANDER) / (_PRIOR + self.count)
        precision: Floats = self._weight / scale
        return precision

    def misfit(self, features: Floats, count: int) -> Floats:
        """Negative log-likelihood of the means (..., F) of `count` windows."""
        return _misfit(self.distance(features, count))


@dataclass(frozen=True, eq=False)
class Maps:
    """K candidates for what undoes a fault.

    Each exchanges channels, turns, scales or shifts them, or stretches time. So what they do to a
    window is known from its features alone, and is the same at every call: no window has to be
    measured anew. (The floor of the features apart, which is taken as alike for channels that are
    exchanged.)

    Attributes:
        name: the fault of each.
        channel: where it affects one channel only, else None.
        source: which feature becomes which (K, F).
        factor: what it is multiplied with (K, F).
        shift: what is added then (K, F).
    """

    name: tuple[str, ...]
    channel: tuple[int | None, ...]
    source: NDArray[np.int64]
    factor: Floats
    shift: Floats

    def __call__(self, features: Floats) -> Floats:
        """Features (F,) under each of the maps (K, F)."""
        mapped: Floats = self.factor * features[self.source] + self.shift
        return mapped

    def inverse(self, index: int) -> Maps:
        """The one map that brings the fault back which map `index` undoes."""
        source = self.source[index].argsort()
        factor = 1 / self.factor[index, source]
        shift = -self.shift[index, source] * factor
        return Maps((self.name[index],), (None,), source[None], factor[None], shift[None])


@lru_cache
def axis_maps(channels: int, triads: tuple[int, ...], polar: tuple[int, ...]) -> Maps:
    """Axes exchanged, or their signs turned: in one sensor, in all of them alike, or as a wearer
    would do it, which is no fault and has the name "".

    Worn otherwise, all sensors turn by the same rotation. On the other side of the body, vectors
    are mirrored, and axial vectors such as a rate of turn are mirrored and reversed.

    Args:
        channels: C.
        triads: first channel of each sensor of three axes.
        polar: those that measure vectors (accelerometers), not axial vectors.
    """
    plain = [np.eye(3)[list(order)] for order in permutations(range(3)) if order != (0, 1, 2)]
    plain += [np.diag(signs) for signs in product((1.0, -1.0), repeat=3) if min(signs) < 0]
    found: dict[bytes, tuple[str, Floats]] = {}

    def add(name: str, axes: Mapping[int, Floats]) -> None:
        matrix = np.eye(channels)
        for first, block in axes.items():
            matrix[first : first + 3, first : first + 3] = block
        matrix = matrix + 0.0  # no -0.0, which has other bytes
        found.setdefault(matrix.tobytes(), (name, matrix))

    for axes in plain:
        mirrored = np.linalg.det(axes) < 0
        reversed_ = -axes if mirrored else axes
        add(WORN, {first: axes if first in polar else reversed_ for first in triads})
    for axes in plain:
        for first in triads:
            add(AXES, {first: axes})
        add(AXES, dict.fromkeys(triads, axes))
    names = tuple(name for name, _ in found.values())
    stacked = np.reshape([matrix for _, matrix in found.values()], (-1, channels, channels))
    order, sign = np.abs(stacked).argmax(2), _single(stacked.sum(2))  # (K, C)
    rows, columns = pairs(channels)
    pair = np.zeros((channels, channels), np.int64)
    pair[rows, columns] = pair[columns, rows] = np.arange(len(rows))
    levels, correlations, roughness, _ = np.cumsum([channels, channels, len(rows), channels])
    source = [
        *(order, levels + order),
        *(correlations + pair[order[:, rows], order[:, columns]], roughness + order),
    ]
    one = np.ones_like(sign)
    factor = np.concatenate([sign, one, sign[:, rows] * sign[:, columns], one], axis=1)
    count = len(names)
    return Maps(
        names, (None,) * count, np.concatenate(source, axis=1), factor, np.zeros_like(factor)
    )


@lru_cache
def _groups(
    channels: int, triads: tuple[int, ...], alone: bool, weighed: bool
) -> NDArray[np.float32]:
    """Which channels a gain may affect together: each, those of a sensor, or all (G, C).

    All of them only where one has gravity to tell a gain from: else it is what a machine under load
    does, and somebody who hurries.
    """
    groups = [np.arange(channels) == c for c in range(channels)] if alone else []
    groups += [np.isin(np.arange(channels), range(first, first + 3)) for first in triads]
    groups = [*groups, np.ones(channels, bool)]
    found = np.unique(groups, axis=0).astype(np.float32)
    return found if weighed else found[found.sum(1) < channels]


def other_maps(features: Floats, before: Floats, usual: Usual, *, alone: bool) -> Maps:
    """Gain, offset and rate that would lead back from the windows after to those before.

    Args:
        features: mean features of the windows after (F,).
        before: those of the bout (F,).
        alone: whether one channel by itself may be off.
    """
    channels = len(usual.floor)
    groups = _groups(channels, usual.triads, alone, bool(usual.polar))
    mean, step = features[:channels], before - features
    leapt = np.abs(step[:channels]) > _MIN_SHIFT * usual.reach
    by_spread = groups @ step[channels : 2 * channels] / groups.sum(1)
    # The least squares of a factor; no factor makes up for a mean that changed its sign.
    ratio = groups @ (before[:channels] * mean) / np.maximum(groups @ (mean * mean), 1e-12)
    by_level = np.log(np.maximum(ratio, 1e-12)) * ((ratio > 0) & (groups @ leapt > 0))
    gain = np.concatenate([by_spread, by_level])
    chosen = (np.abs(gain) > _MIN_GAIN).nonzero()[0]
    where = groups[chosen % len(groups)]
    shifted = leapt.nonzero()[0] if alone else np.empty(0, np.int64)
    pace = float(step[-channels:].sum()) / channels
    faster = bool(abs(pace) > _MIN_RATE)
    gains, offsets = len(where), len(shifted)
    shape = gains + offsets + faster, len(features)

    factor, shift = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    scaled = where * gain[chosen, None]
    shift[:gains, channels : 2 * channels] = scaled
    factor[:gains, :channels] = np.exp(scaled)
    shift[range(gains, gains + offsets), shifted] = step[shifted]
    if faster:
        shift[-1, -channels:] = pace
    only = [group.index(1) if group.count(1) == 1 else None for group in where.tolist()]
    return Maps(
        (GAIN,) * gains + (OFFSET,) * offsets + (RATE,) * faster,
        (*only, *shifted.tolist(), *(None,) * faster),
        np.zeros(shape, np.int64) + np.arange(len(features)),
        factor,
        shift,
    )


@dataclass(frozen=True)
class Verdict:
    """What explains the windows after a leap.

    Attributes:
        name: the fault; None if no map explains them; "" if they need none.
        channel: where it affects one channel only.
        repair: the map that brings it back, by which its end is known.
        misfit: of the best explanation.
        identity: misfit of the best bout without any map.
        worn: the same if the sensor is worn otherwise.
    """

    name: str | None
    channel: int | None = None
    repair: Maps | None = None
    misfit: float = np.inf
    identity: float = np.inf
    worn: float = np.inf


class Leap(NamedTuple):
    """What is known after a window.

    Attributes:
        fault: the fault that stands, or None.
        channel: where it affects one channel only.
        since_seq: first window after the leap that led to the present state.
        new: whether this window brought the state about.
    """

    fault: str | None
    channel: int | None
    since_seq: int
    new: bool


class Distortion:
    """Watches one stream for a leap that one of the maps undoes.

    Attributes:
        fault: the fault that stands, or None.
        channel: where it affects one channel only.
        since_seq: first window after the leap that led to the present state.
    """

    def __init__(self, usual: Usual, settings: DistortionSettings | None = None) -> None:
        self._usual = usual
        self._settings = settings or DistortionSettings()
        self.fault: str | None = None
        self.channel: int | None = None
        self.since_seq = 0
        self._bout: Bout | None = None  # the present one, as far as it is certain
        self._bouts: list[Bout] = []  # earlier ones, all of a sound sensor
        self._same: list[Floats] = []  # windows of the bout that it has yet to take in
        self._after: list[Floats] = []  # windows after a leap, not yet judged
        self._new: Bout | None = None  # the same, as a bout
        self._leap_seq = 0
        self._back = 0  # windows in a row that are as before the leap
        self._said: str | None = None  # at the look before
        self._repair: Maps | None = None
        self._stood = 0  # windows since the fault was found
        self._has_leapt: bool | None = None  # the next window, where that is known

    def update_many(self, features: Floats, seqs: Sequence[int]) -> list[Leap]:
        """Takes the features of the next windows (N, F): what is known after each of them."""
        told: list[Leap] = []
        while len(told) < len(features):
            calm = self._calm(features[len(told) :])
            told += [Leap(self.fault, self.channel, self.since_seq, False)] * calm
            if not calm:
                before, next_ = self.fault, len(told)
                fault = self._update(features[next_], seqs[next_], self._has_leapt)
                told.append(Leap(fault, self.channel, self.since_seq, fault != before))
        return told

    def _calm(self, features: Floats) -> int:
        """Takes as many of the next windows (N, F) at once as go on with a bout that is known, and
        says how many.
        """
        bout = self._bout
        self._has_leapt = None
        if bout is None or bout.count < _KNOWN or self._new is not None or self.fault is not None:
            return 0
        some = features[: _AT_ONCE - len(self._same)]
        leapt = self._leapt(bout, some)
        calm = int(leapt.argmax())
        if leapt[calm]:
            self._has_leapt = calm == 0 or None
        else:
            calm = len(some)
        self._same += list(some[:calm])
        if len(self._same) >= _AT_ONCE:
            self._learn()
        return calm

    def update(self, features: Floats, seq: int = 0) -> str | None:
        """Takes the features of one window (F,); the fault that stands after it, or None."""
        return self._update(features, seq)

    def _update(self, features: Floats, seq: int, leapt: bool | None = None) -> str | None:
        """The same, where it may be known whether the window has left its bout."""
        self._stood += self.fault is not None
        if self._stood > self._settings.lasting:
            self._accept(seq)
        if self._bout is None:
            self._bout = Bout(features, self._usual)
        elif not (self._leapt(self._bout, features) if leapt is None else leapt):
            self._as_before(features)
        elif self._new is None or self._left(self._new, features):
            self._leave(features, seq)
        else:
            self._back = 0
            self._after.append(features)
            self._new.add(features[None])
            self._look()
        return self.fault

    def _accept(self, seq: int) -> None:
        """What is now is as it should be; bouts from before would only tell that it is not."""
        if self._new is not None:
            self._settle()
        self.fault, self.channel, self._repair = None, None, None
        self.since_seq, self._stood, self._bouts = seq, 0, []

    def _leapt(self, bout: Bout, features: Floats) -> NDArray[np.bool_]:
        """Whether windows (..., F) are no more of the bout (...)."""
        distance = bout.distance(features, 1)
        leapt: NDArray[np.bool_] = np.maximum.reduce(distance, -1) > _ODD**2
        far = 2 * self._settings.leap * self._usual.limit
        leapt |= np.add.reduce(distance, -1) > far
        return leapt

    def _left(self, bout: Bout, features: Floats) -> bool:
        """Whether a bout of a few windows, of which little is known, is over already."""
        return bool(bout.misfit(features, 1) > 2 * self._settings.leap * self._usual.limit)

    def _as_before(self, features: Floats) -> None:
        assert self._bout is not None
        if self._new is None:
            self._same.append(features)
            # What is known changes slowly: that is worth a few additions at once.
            if self._bout.count < _KNOWN or len(self._same) >= _AT_ONCE:
                self._learn()
            return
        self._back += 1
        if self._back >= 2:
            self._after, self._new = [], None

    def _learn(self) -> None:
        if self._bout is not None and self._same:
            self._bout.add(np.array(self._same))
        self._same = []

    def _leave(self, features: Floats, seq: int) -> None:
        """A leap, perhaps soon after another."""
        self._learn()
        if self._new is not None and self._new.count > 1:
            self._settle()
        if self._new is None:  # else the window before was half of one thing, half of another
            self._leap_seq = seq
        self._after, self._new = [features], Bout(features, self._usual)
        self._back, self._said = 0, None

    def _settle(self) -> None:
        """The windows after the leap are the present bout from now on."""
        if self.fault is None and self._bout is not None and self._bout.count >= _KNOWN:
            self._bouts = [*self._bouts, self._bout][-self._settings.bouts :]
        self._bout, self._after, self._new = self._new, [], None

    def _look(self) -> None:
        looks = self._settings.looks
        if len(self._after) not in looks:
            return
        verdict = self._judge() if self.fault is None else self._judge_repair()
        said, self._said = self._said, verdict.name
        if verdict.name is not None:
            plain = verdict.identity - verdict.misfit > _PLAIN
            if verdict.name and self.fault is None:
                if verdict.name != said and not plain:
                    return  # the next look has to agree
                self._settle()
                self.fault, self.channel = verdict.name, verdict.channel
                self._repair, self.since_seq = verdict.repair, self._leap_seq
                self._stood = 0
            elif self.fault is not None:
                self._settle()
                self.fault, self.channel, self._repair = None, None, None
                self.since_seq = self._leap_seq
            elif len(self._after) > looks[0]:  # so few may only look as before
                self._settle()
        elif len(self._after) >= looks[-1]:
            self._settle()

    def _judge(self) -> Verdict:
        features, count, usual = self._mean_after(), len(self._after), self._usual
        assert self._bout is not None
        bouts = [*([self._bout] if self._bout.count >= _KNOWN else []), *self._bouts[::-1]]
        if not bouts:
            return Verdict(None)
        means = np.array([bout.mean for bout in bouts])
        precisions = np.array([bout.precision(count) for bout in bouts])
        distances = np.square(features - means) * precisions
        identity = float(_misfit(distances).min())
        nothing = Verdict("", misfit=identity, identity=identity)
        if identity < self._settings.evidence:
            return nothing
        best = self._turned(features, means, precisions, Verdict(None, identity=identity))
        for bout in self._alike(bouts, distances):
            maps = other_maps(features, bout.mean, usual, alone=bout is self._bout)
            if maps.name:
                best = _better(best, maps, bout.misfit(maps(features), count))
        sure = self._sure(best)
        hopeless = best.misfit > _HOPELESS * usual.limit
        if sure.name is None and (hopeless or identity < self._settings.fit * usual.limit):
            return nothing
        return sure

    def _turned(
        self, features: Floats, means: Floats, precisions: Floats, best: Verdict
    ) -> Verdict:
        """The best of no map and those that exchange or turn axes, given the mean (B, F) and the
        precision (B, F) of every bout.
        """
        usual = self._usual
        maps = axis_maps(len(usual.floor), usual.triads, usual.polar)
        if not maps.name:
            return best
        distances = np.square(maps(features) - means[:, None]) * precisions[:, None]  # (B, K, F)
        misfits = np.minimum.reduce(_misfit(distances))
        worn = np.array([name == WORN for name in maps.name])
        if worn.any():
            best = replace(best, worn=float(misfits[worn].min()))
        return _better(best, maps, np.where(worn, np.inf, misfits))

    def _alike(self, bouts: list[Bout], distances: Floats) -> list[Bout]:
        """The bouts whose correlations are most alike: neither gain nor offset changes these."""
        channels = len(self._usual.floor)
        misfits = _misfit(distances[:, 2 * channels : -channels])
        nearest = misfits.argsort()[:2]
        return [bouts[i] for i in nearest if misfits[i] < _LOOSE * self._usual.limit]

    def _judge_repair(self) -> Verdict:
        features, count = self._mean_after(), len(self._after)
        assert self._bout is not None and self._repair is not None
        broken = float(self._bout.misfit(features, count))
        back = self._bout.misfit(self._repair(features), count)
        best = self._sure(_better(Verdict(None, identity=broken), self._repair, back))
        if best.name is not None or not self._bouts:
            return best
        # Or an activity from before the fault comes again, and is better as it is than undone.
        undone = self._repair.inverse(0)(features)
        as_is = min(float(bout.misfit(features, count)) for bout in self._bouts)
        mended = min(float(bout.misfit(undone, count).min()) for bout in self._bouts)
        loose = _LOOSE * self._usual.limit
        return Verdict("" if as_is < min(mended - self._settings.evidence, loose) else None)

    def _sure(self, best: Verdict) -> Verdict:
        limit = self._settings.fit * self._usual.limit
        explained = best.misfit < limit
        explained |= best.misfit < min(_LOOSE * limit, _REST * best.identity)
        told = best.identity - best.misfit > self._settings.evidence
        if explained and told and best.worn - best.misfit > self._settings.doubt:
            return best
        return replace(best, name=None)

    def _mean_after(self) -> Floats:
        mean: Floats = np.add.reduce(self._after) / len(self._after)
        return mean


@lru_cache
def _prices(names: tuple[str, ...]) -> NDArray[np.float32]:
    return np.array([_PRICE[name] for name in names], np.float32)


def _better(best: Verdict, maps: Maps, misfits: Floats) -> Verdict:
    total = misfits + _prices(maps.name)
    index = int(total.argmin())
    misfit = float(total[index])
    if misfit >= best.misfit:
        return best
    name, channel = maps.name[index], maps.channel[index]
    repair = maps.inverse(index)
    return replace(best, name=name, channel=channel, repair=repair, misfit=misfit)
