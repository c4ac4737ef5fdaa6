"""A sensor whose channels are swapped, turned, scaled, shifted or sampled otherwise than before.

Each of these faults is a map, the same for every window from its beginning on. Undone, it takes
the windows after back to an activity that the stream is known by, up to the variation that is usual
within a bout. A change of the world (another activity, person or place on the body) also makes a
leap, but none of a few dozen exact maps undoes it. So the evidence is a likelihood ratio: how much
better the best map explains the windows after than "nothing changed" does, provided that it
explains them as well as the windows of one bout explain each other.

What is known is kept as a sound sensor shows it. While a fault stands, its map is undone first, and
the fault is over when windows are as known without that.

A wearer can turn the sensor, and can wear it on the other side of the body, which mirrors it. Both
are signed permutations too, and the world's, not the sensor's. So a map must also explain the
windows better than these do. Half a turn of all sensors together cannot: it is what wearing them
upside down does, nothing within the sensor tells the two apart, and a model can learn either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.activities import KNOWN, Activities
from edgetuner.drift.magnitude import Magnitude
from edgetuner.drift.maps import AXES, GAIN, OFFSET, RATE, SOUND, Maps, axis_maps, other_maps
from edgetuner.drift.summary import Floats
from edgetuner.drift.usual import Bout, Usual, misfit

_ODD = 5.0  # deviations of a single feature that are a leap
_DOUBTED = 4  # windows before a fault in which it may have begun unnoticed
_OVER = 3  # windows in a row that are as before the fault when it is over
_OVERDONE = 6.0  # evidence for the end of a fault, where undoing it leads to what cannot be
_AT_ONCE = 8  # windows that are compared with what was known before them
_LEFT = 2.5  # limits beyond which a few windows and the next are not of one activity
_HOPELESS = 4.5  # limits beyond which more windows will not help
_PLAIN, _NEAR = 70.0, 1.5  # evidence, and limits of the misfit, that need no second look
_LOOSE, _REST = 3.0, 0.35  # a worse fit will do, if it leaves but this share of the misfit
# What a map costs in evidence: one whose number is fitted, and not chosen from a few, pays for it,
# and a rate for that of each channel, and since people differ in pace.
_PRICE = {SOUND: 0.0, AXES: 0.0, GAIN: 3.0, OFFSET: 3.0, RATE: 15.0}
_AS_KNOWN, _STRANGE, _AS_BEFORE = range(3)  # a window: as the sensor is, unknown, without the fault


@dataclass(frozen=True)
class DistortionSettings:
    """When a leap is a fault.

    Attributes:
        looks: numbers of windows after a leap at which it is judged.
        leap: how far a window must lie from all known activities to be a leap, in units of the
            usual.
        fit: how well a map must explain the windows after, in the same units.
        evidence: least logarithm of the likelihood ratio between the best map and none.
        doubt: the same between the best map and wearing the sensor otherwise.
        activities: that a stream is known by, two at least; see `Activities`.
        lasting: windows after which a fault is taken for the way that things are from now on. Then
            the windows before tell no more, and what a map does to windows a model can learn.
    """

    looks: tuple[int, ...] = (2, 5, 9, 12)
    leap: float = 1.5
    fit: float = 1.0
    evidence: float = 15.0
    doubt: float = 10.0
    activities: int = 16
    lasting: int = 100


@dataclass(frozen=True)
class Verdict:
    """What explains the windows after a leap.

    Attributes:
        name: the fault; None if no map explains them; `SOUND` if they need none.
        channel: where it affects one channel only.
        repair: the map that brings it back, by which its end is known.
        misfit: of the best explanation.
        identity: misfit of the best activity without any map.
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


class _Compared(NamedTuple):
    """N windows beside the known activities.

    Attributes:
        rows: as a sound sensor would show them (N, F).
        kinds: of each, whether it is as known, strange, or as it was before the fault.
        nearest: the index of the nearest activity of each.
        gains: the evidence that each gives for the end of the fault that stands.
    """

    rows: Floats
    kinds: list[int]
    nearest: list[int]
    gains: list[float]


class Distortion:
    """Watches one stream for a leap that one of the maps undoes.

    Attributes:
        fault: the fault that stands, or None.
        channel: where it affects one channel only.
        since_seq: first window after the leap that led to the present state.
        accepted: whether the fault before is what things are like from now on.
    """

    def __init__(
        self,
        usual: Usual,
        settings: DistortionSettings | None = None,
        magnitude: Magnitude | None = None,
    ) -> None:
        self._usual = usual
        self._magnitude = magnitude
        self.settings = settings or DistortionSettings()
        self.fault: str | None = None
        self.channel: int | None = None
        self.since_seq = 0
        self.accepted = False
        self._known = Activities(usual, self.settings.activities)
        self._compared = False  # whether what was compared with them still holds
        self._after: list[Floats] = []  # windows after a leap, not yet judged
        self._run: Bout | None = None  # the same, as a bout, where they are two or more
        self._windows = 0  # so far
        self._leap_seq = self._leap_at = 0  # the first window after it: its number, and among all
        self._tainted = False  # whether windows are of a sensor that is broken, nobody knows how
        self._halved = False  # whether the first window after it is left out of them
        self._calm = 0  # windows in a row that are known, since
        self._said: tuple[str, int | None] | None = None  # fault and channel, at the look before
        self.repair: Maps | None = None
        self._stood = 0  # windows since the fault was found
        self._gained: list[tuple[int, float]] = []  # windows in a row that are as before the fault

    def update(self, features: Floats, seq: int = 0) -> str | None:
        """Takes the features of one window (F,); the fault that stands after it, or None."""
        return self.update_many(features[None], [seq])[-1].fault

    def update_many(
        self, features: Floats, seqs: Sequence[int], broken: Sequence[bool] | None = None
    ) -> list[Leap]:
        """Takes the features of the next windows (N, F): what is known after each of them.

        Args:
            seqs: their numbers.
            broken: which are known to be of a broken sensor, if not how: a stream is not known by
                these.
        """
        told: list[Leap] = []
        broken = broken or [False] * len(features)
        while len(told) < len(features):
            at = len(told)
            some = slice(at, at + _AT_ONCE)
            told += self._take(features[some], seqs[some], broken[some])
        return told

    @property
    def count(self) -> int:
        """Windows since the latest leap."""
        return self._windows - self._leap_at

    def doubt(self, count: int) -> None:
        """It is known from elsewhere that the last so many windows are of a broken sensor."""
        self._known.doubt(self._windows - count)
        self._after, self._run, self._said = [], None, None
        self._compared = False

    def refute(self) -> None:
        """It is known from elsewhere that nothing is wrong: so what was known was."""
        self._known.forget()
        self._now(None, self.since_seq)

    def end(self, seq: int) -> None:
        """It is known from elsewhere that the fault is over since then."""
        self._now(None, seq)

    def _take(
        self, features: Floats, seqs: Sequence[int], broken: Sequence[bool]
    ) -> Iterator[Leap]:
        """Takes the next windows (N, F), until there is an activity or a state that they were not
        compared with.
        """
        compared = self._compare(features)
        self._compared = True
        kinds, at = compared.kinds, 0
        while at < len(kinds) and self._compared:
            before, end = Leap(self.fault, self.channel, self.since_seq, False), at + 1
            while end < len(kinds) and kinds[end] == kinds[at] and broken[end] == broken[at]:
                end += 1
            tainted = broken[at] and self.fault is None
            if tainted != self._tainted:  # a run is of one kind only
                self._tainted, self._after, self._run = tainted, [], None
            if self.fault is not None:
                end = min(end, at + max(1, self.settings.lasting + 1 - self._stood))
            if kinds[at] == _STRANGE:
                end = at + self._strange(features[at:end], seqs[at:end])
            else:
                self._familiar(compared, at, end, seqs)
            if self.fault is not None:
                self._stood += end - at
                if self._stood > self.settings.lasting:
                    self.accept(seqs[end - 1])
            self._windows += end - at
            for _ in range(at + 1, end):
                yield before
            yield Leap(self.fault, self.channel, self.since_seq, self.fault != before.fault)
            at = end

    def _compare(self, features: Floats) -> _Compared:
        """Windows (N, F) beside the known activities."""
        if not self._known:
            return _Compared(features, [_STRANGE] * len(features), [], [])
        if self.repair is None:
            far, nearest, _ = self._nearest(features)
            kinds = np.where(far, _STRANGE, _AS_KNOWN)
            return _Compared(features, kinds.tolist(), nearest.tolist(), [])
        rows = self.repair.undo(features)
        far, nearest, total = self._nearest(rows)
        far_before, _, total_before = self._nearest(features)
        gain = 0.5 * (total - total_before)
        kinds = np.where(far, _STRANGE, _AS_KNOWN)
        kinds[~far_before & (gain > 0)] = _AS_BEFORE
        overdone = self._impossible(rows)
        if overdone.any():
            overdone &= ~self._impossible(features)
            kinds[overdone] = _AS_BEFORE
            gain[overdone] = np.maximum(gain[overdone], _OVERDONE)
        return _Compared(rows, kinds.tolist(), nearest.tolist(), gain.tolist())

    def _nearest(self, features: Floats) -> tuple[NDArray[np.bool_], NDArray[np.int64], Floats]:
        """Of windows (N, F): whether they are of no known activity, which is nearest, and their
        squared distance from it, (N,) each.
        """
        nearest, distance = self._known.nearest(features)
        total = np.add.reduce(distance, 1)
        near = total <= 2 * self.settings.leap * self._usual.limit
        near &= np.maximum.reduce(distance, 1) <= _ODD**2
        far: NDArray[np.bool_] = ~near  # what is not a number is not near
        return far, nearest, total

    def _familiar(self, compared: _Compared, at: int, end: int, seqs: Sequence[int]) -> None:
        """Windows of known activities, from `at` up to `end`."""
        self._calm += end - at
        if self._after and self._calm >= min(2, len(self._after)):
            self._after, self._run = [], None
        if compared.kinds[at] == _AS_BEFORE:
            self._gained += zip(seqs[at:end], compared.gains[at:end], strict=True)
            evidence = sum(gain for _, gain in self._gained)
            if len(self._gained) >= _OVER and evidence > self.settings.evidence:
                self._now(None, self._gained[0][0])
            return
        self._gained = []
        while at < end:
            nearest, start = compared.nearest[at], at
            while at < end and compared.nearest[at] == nearest:
                at += 1
            if not self._tainted:
                self._known.learn(nearest, compared.rows[start:at])

    def _strange(self, features: Floats, seqs: Sequence[int]) -> int:
        """Takes windows (N, F) of no known activity, and says how many."""
        self._calm, self._gained = 0, []
        if not self._after:
            return self._begin(features[0], seqs[0])
        if self._run is None:
            self._run = Bout(self._after[0], self._usual)
        left = self._run.misfit(features, 1) > _LEFT * self._usual.limit
        count = int(left.argmax())
        if left[0]:  # a leap soon after another
            if len(self._after) == 1 and not self._halved:
                self._begin(features[0], self._leap_seq)
                self._halved = True  # the window before was half of one thing, half of another
                return 1
            self._settle()
            return self._begin(features[0], seqs[0])
        if not left[count]:
            count = len(features)
        known = len(self._after)
        look = next((look for look in self.settings.looks if look > known), None)
        if look is not None:
            count = min(count, look - known)
        self._after += list(features[:count])
        self._run.add(features[:count])
        if len(self._after) == look:
            self._look()
        return count

    def _begin(self, features: Floats, seq: int) -> int:
        self._leap_seq, self._leap_at, self._halved = seq, self._windows, False
        self._after, self._run, self._said = [features], None, None
        return 1

    def _settle(self) -> None:
        """The windows after the leap are an activity like others from now on."""
        rows = np.array(self._after)
        if self.repair is not None:
            rows = self.repair.undo(rows)
        self._after, self._run, self._said = [], None, None
        self._compared = False
        if len(rows) > 1 and not self._tainted:
            self._known.meet(rows, self._windows)

    def _now(self, fault: str | None, since_seq: int, verdict: Verdict | None = None) -> None:
        """The sensor is like this since then."""
        self.fault, self.since_seq, self._stood = fault, since_seq, 0
        self.accepted = False
        self.channel = verdict.channel if verdict else None
        self.repair = verdict.repair if verdict else None
        self._gained, self._compared = [], False
        if verdict is not None:
            # A run may have ended before it had its name: what it was like is not to be known.
            self._known.doubt(self._leap_at - _DOUBTED)
        if self._after:
            self._settle()

    def accept(self, seq: int) -> None:
        """What is now is as it should be; activities from before would only tell that it is not."""
        self._known.forget()
        self._after, self._run = [], None
        self._now(None, seq)
        self.accepted = True

    def _look(self) -> None:
        verdict = self._judge() if self.fault is None else self._judge_again()
        found = (verdict.name, verdict.channel) if verdict.name else None
        said, self._said = self._said, found
        evidence, near = verdict.identity - verdict.misfit, _NEAR * self._usual.limit
        plain = evidence > _PLAIN and verdict.misfit < near
        if verdict.name and (plain or found == said):  # else the next look has to agree
            self._now(verdict.name, self._leap_seq, verdict)
        elif verdict.name == SOUND and self.fault is not None:
            self._now(None, self._leap_seq)
        elif len(self._after) >= self._enough(verdict.name):
            self._settle()

    def _enough(self, name: str | None) -> int:
        """Windows after which a leap is an activity like others, given what was made of them."""
        first, last = self.settings.looks[0], self.settings.looks[-1]
        if name == SOUND:
            return min(first + 1, last)  # so few may only look as before
        return last if name or len(self._known.well_known()) else min(KNOWN, last)

    def _judge(self) -> Verdict:
        features, count, usual = self._mean_after(), len(self._after), self._usual
        known = self._known.well_known()
        if not len(known):
            return Verdict(None)
        means, precisions = self._known.means(known), self._known.precisions(count, known)
        distances = np.square(features - means) * precisions
        identity = float(misfit(distances).min())
        nothing = Verdict(SOUND, misfit=identity, identity=identity)
        if identity < self.settings.evidence:
            return nothing
        best = self._turned(features, means, precisions, Verdict(None, identity=identity))
        for i in self._alike(distances):
            alone = bool(known[i] == self._known.latest)
            maps = other_maps(features, means[i], usual, alone=alone)
            if maps.name:
                repaired = maps(features)
                misfits = misfit(np.square(repaired - means[i]) * precisions[i])
                if misfits.min() < best.misfit:
                    misfits[self._impossible(repaired)] = np.inf
                best = _better(best, maps, misfits)
        sure = self._sure(best)
        hopeless = best.misfit > _HOPELESS * usual.limit
        if sure.name is None and (hopeless or identity < self.settings.fit * usual.limit):
            return nothing
        return sure

    def _impossible(self, features: Floats) -> NDArray[np.bool_]:
        """Which windows (N, F) no sound sensor shows: what leads to them repairs nothing (N,)."""
        if self._magnitude is None:
            return np.zeros(len(features), bool)
        channels = len(self._usual.floor)
        variance = np.exp(2 * features[:, channels : 2 * channels]) - self._usual.floor
        return self._magnitude.inspect(features[:, :channels], np.maximum(variance, 0))

    def _turned(
        self, features: Floats, means: Floats, precisions: Floats, best: Verdict
    ) -> Verdict:
        """The best of no map and those that exchange or turn axes, given the mean (P, F) and the
        precision (P, F) of every activity.
        """
        usual = self._usual
        maps = axis_maps(len(usual.floor), usual.triads, usual.polar)
        distances = np.square(maps(features) - means[:, None]) * precisions[:, None]  # (P, K, F)
        misfits = np.minimum.reduce(misfit(distances))
        worn = np.array([name == SOUND for name in maps.name])
        if worn.any():
            best = replace(best, worn=float(misfits[worn].min()))
        return _better(best, maps, np.where(worn, np.inf, misfits))

    def _alike(self, distances: Floats) -> list[int]:
        """The activities whose correlations are most alike: neither gain nor offset changes these;
        of squared distances (P, F).
        """
        channels = len(self._usual.floor)
        misfits = misfit(distances[:, 2 * channels : -channels])
        nearest: list[int] = misfits.argsort()[:2].tolist()
        return [i for i in nearest if misfits[i] < _LOOSE * self._usual.limit]

    def _judge_again(self) -> Verdict:
        """The same while a fault stands: only whether it is over."""
        features, count, known = self._mean_after(), len(self._after), self._known.well_known()
        assert self.repair is not None
        if not len(known):
            return Verdict(None)
        as_is = float(self._known.misfits(features, count)[known].min())
        undone = self.repair.undo(features[None])[0]
        mended = float(self._known.misfits(undone, count)[known].min())
        over = as_is < min(mended - self.settings.evidence, _LOOSE * self._usual.limit)
        return Verdict(SOUND if over else None)

    def _sure(self, best: Verdict) -> Verdict:
        limit = self.settings.fit * self._usual.limit
        # What a map costs is for the evidence to bear, and not for the fit.
        explained = best.misfit - _PRICE[best.name or SOUND] < limit
        explained |= best.misfit < min(_LOOSE * limit, _REST * best.identity)
        told = best.identity - best.misfit > self.settings.evidence
        if explained and told and best.worn - best.misfit > self.settings.doubt:
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
    repair = maps[index]
    return replace(best, name=name, channel=channel, repair=repair, misfit=misfit)
