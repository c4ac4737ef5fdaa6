"""Cumulative sum: strange windows of several kinds are news; one kind, however long, hardly is."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, log1p

import numpy as np
from numpy.typing import NDArray

# Of the mean, in standard deviations of a window at home: what a change is assumed to be worth. On
# activity streams half of it was slower on other positions, and half as much again on new people.
SHIFT = 2.0
TOUCHED = 0.8  # share of the kinds that a change shows in
_TOUCHED, _UNTOUCHED = log(TOUCHED), log1p(-TOUCHED)


@dataclass(frozen=True, slots=True)
class Spread:
    """How scores at home vary, as variances.

    Attributes:
        between: of the means of bouts (one person doing one thing) around that of their class.
        within: of the windows of a bout around its mean.
    """

    between: float
    within: float


class Cusum:
    """One-sided CUSUM (Page, 1954) of log-likelihood ratios under a random effect of each kind.

    Windows of one kind share an effect b: at home a score is N(b, within), with b from N(0,
    between); after a change b is from N(shift, between). Then n windows of mean m are worth

        shift (m - shift / 2) / (between + within / n)

    (Searle, Casella and McCulloch, 1992, sec. 3.3, for the likelihood of the one-way layout), which
    n windows cannot raise above the bound that n = infinity gives. A kind that stays ordinary may
    be one that the change does not touch, so that it takes back no more than log(1 - TOUCHED) (Xie
    and Siegmund, 2013, for changes in a share of many streams). So somebody who walks strangely
    for ten minutes counts once and not a hundred times; very strange windows are still found within
    a few; and a change that shows in all that a person does adds up kind by kind. A sum that falls
    to zero forgets everything.

    Args:
        threshold: the alarm is raised above it; from `calibrate`.
        spread: variances at home.
        shift: of the mean, what a change is assumed to be worth.

    >>> detector = Cusum(threshold=2.0, spread=Spread(between=1.0, within=1.0))
    >>> for x, kind in [(-1.0, 0), (2.0, 0), (3.0, 0), (3.0, 1)]:
    ...     detector.update(x, kind)
    >>> round(detector.statistic, 3), detector.drift_detected, detector.onset
    (3.62, True, 3)
    """

    __slots__ = ("_kinds", "onset", "shift", "spread", "statistic", "threshold")

    def __init__(self, threshold: float, spread: Spread, shift: float = SHIFT) -> None:
        self.threshold = threshold
        self.spread = spread
        self.shift = shift
        self.reset()

    def reset(self) -> None:
        """Forget everything that was seen."""
        self.statistic = 0.0
        # Updates since the statistic was last zero: the usual estimate of the change point.
        self.onset = 0
        self._kinds: dict[
            int, tuple[int, float, float]
        ] = {}  # windows, their sum, what it is worth

    def update(self, x: float, kind: int = 0) -> None:
        """Take the next score, and of which kind its window is."""
        windows, total, worth = self._kinds.get(kind, (0, 0.0, 0.0))
        windows, total = windows + 1, total + x
        spread = self.spread.between + self.spread.within / windows
        now = _worth(self.shift * (total / windows - self.shift / 2) / spread)
        moved = self.statistic + now - worth
        if moved > 0:
            self.statistic = moved
            self.onset += 1
            self._kinds[kind] = windows, total, now
        else:
            self.reset()

    def effects(self) -> dict[int, float]:
        """By how much each kind was strange since the statistic was last zero, as far as so few
        windows tell: the best linear predictor of its effect (Searle et al., sec. 7.4), above 0.
        """
        between, within = self.spread.between, self.spread.within
        means = {
            kind: total / n * between / (between + within / n)
            for kind, (n, total, _) in self._kinds.items()
        }
        return {kind: mean for kind, mean in means.items() if mean > 0}

    @property
    def drift_detected(self) -> bool:
        """Whether the statistic is above the threshold now."""
        return self.statistic > self.threshold


def _worth(ratio: float) -> float:
    """log(1 - TOUCHED + TOUCHED exp(ratio)), without overflow."""
    high = ratio + _TOUCHED
    if high > _UNTOUCHED:
        return high + log1p(exp(_UNTOUCHED - high))
    return _UNTOUCHED + log1p(exp(high - _UNTOUCHED))


class Cusums:
    """`Cusum` of S streams of windows of K kinds, side by side.

    Attributes:
        statistic: of each stream (S,).
    """

    def __init__(self, streams: int, kinds: int, spread: Spread, shift: float = SHIFT) -> None:
        self.spread = spread
        self.shift = shift
        self.statistic = np.zeros(streams)
        self._kinds = kinds
        self._every = np.arange(streams) * kinds
        # Since their last zero. A count of an earlier run is told by its number, and costs no
        # reset.
        self._run, self._seen_in = np.zeros(streams, np.int64), np.full(streams * kinds, -1)
        self._windows, self._totals, self._worths = np.zeros((3, streams * kinds))

    def update(self, x: NDArray[np.float64], kind: NDArray[np.int64]) -> None:
        """Take the next score of each stream (S,), and of which kind its window is (S,)."""
        spread, at = self.spread, self._every + kind
        known = self._seen_in[at] == self._run
        n = self._windows[at] * known + 1
        total = self._totals[at] * known + x
        ratio = self.shift * (total / n - self.shift / 2) / (spread.between + spread.within / n)
        now = np.logaddexp(_UNTOUCHED, ratio + _TOUCHED)
        self.statistic += now - self._worths[at] * known
        self._windows[at], self._totals[at], self._worths[at] = n, total, now
        self._seen_in[at] = self._run
        self.reset(self.statistic <= 0)

    def reset(self, streams: NDArray[np.bool_]) -> None:
        """Those of the streams (S,) forget everything that was seen."""
        self.statistic[streams] = 0
        self._run += streams

    def effects(self, streams: NDArray[np.bool_]) -> NDArray[np.float64]:
        """As `Cusum.effects`, of those of the streams (S,): (chosen, K), 0 where not strange."""
        rows, shape = np.flatnonzero(streams), (len(streams), self._kinds)
        known = self._seen_in.reshape(shape)[rows] == self._run[rows, None]
        n = np.where(known, self._windows.reshape(shape)[rows], np.inf)
        between, within = self.spread.between, self.spread.within
        means = self._totals.reshape(shape)[rows] / n * between / (between + within / n)
        return np.maximum(means, 0.0)


def statistics(
    scores: NDArray[np.float64],
    kinds: NDArray[np.int64],
    spread: Spread,
    shift: float = SHIFT,
) -> NDArray[np.float64]:
    """The statistic of `Cusum` after every window of many streams at once.

    Args:
        scores: (streams, windows).
        kinds: of each window, from 0 (streams, windows).

    Returns:
        (streams, windows).
    """
    streams, horizon = scores.shape
    cusums = Cusums(streams, int(kinds.max(initial=0)) + 1, spread, shift)
    path = np.empty((horizon, streams))
    for t, (x, kind) in enumerate(zip(scores.T, kinds.T, strict=True)):
        cusums.update(x, kind)
        path[t] = cusums.statistic
    return path.T
