"""Errors on labelled windows: they show what no embedding can, a change of meaning."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from edgetuner.drift.cusum import SHIFT, Cusum, Spread

# Errors come together: people do one thing for minutes, and the model is right about it or is not.
# The share of their variance that lies between bouts, rather too much: with a little less real
# streams cried twice as often as asked.
ALIKE = 0.35
_MOST = 4.0  # of a standard score: the first error of a model that makes none is not yet a drift
_LEAST_RATE, _MOST_RATE = 0.01, 0.9
_Z = 1.645


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """What errors are like at home.

    Attributes:
        errors: held-out labelled windows that the model got wrong.
        windows: how many there were.
    """

    errors: int
    windows: int

    @property
    def rate(self) -> float:
        """The upper end of Wilson's one-sided 95 % interval (1927): few windows prove little."""
        share, n = self.errors / self.windows, self.windows
        centre = share + _Z**2 / (2 * n)
        spread = _Z * sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
        return min(max((centre + spread) / (1 + _Z**2 / n), _LEAST_RATE), _MOST_RATE)

    @property
    def tells(self) -> bool:
        """Whether an error is news: a model that is wrong half of the time gives none by it."""
        return self.score(True) > 0.75 * SHIFT

    def score(self, wrong: bool) -> float:
        """Standard score of one labelled window."""
        rate = self.rate
        return min((wrong - rate) / sqrt(rate * (1 - rate)), _MOST)


SPREAD = Spread(between=ALIKE, within=1 - ALIKE)


class LabelledError:
    """CUSUM of errors on labelled windows, in the order in which the labels arrive.

    Args:
        home: what errors are like at home.
        threshold: from `calibrate`.
    """

    __slots__ = ("_cusum", "_home")

    def __init__(self, home: ErrorRate, threshold: float) -> None:
        self._home = home
        self._cusum = Cusum(threshold, SPREAD)

    def update(self, wrong: bool, predicted: int) -> None:
        """Take the next labelled window: whether the model was wrong, and the class it gave."""
        self._cusum.update(self._home.score(wrong), predicted)

    @property
    def cusum(self) -> Cusum:
        """The statistic, its threshold and its onset."""
        return self._cusum

    @property
    def drift_detected(self) -> bool:
        """Whether there are more errors than home explains."""
        return self._cusum.drift_detected
