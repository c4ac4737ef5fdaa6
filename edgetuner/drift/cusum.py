"""Cumulative sum: many slightly strange windows in a row are news, one very strange is not."""

from __future__ import annotations

from statistics import NormalDist

Z_MAX = 4.0  # a normal score is clipped here, so that no single window can raise an alarm by itself

# k. At the same measured rate of false alarms, 1.0 noticed another arm or a leg after half as many
# windows as the textbook's 0.35, and it lives with a new person on whom the model still works.
REFERENCE_VALUE = 1.0

_NORMAL = NormalDist()
_P_MIN = _NORMAL.cdf(-Z_MAX)


def normal_score(p: float) -> float:
    """z = Phi^-1(1 - p), clipped to [-Z_MAX, Z_MAX]: 0 for an ordinary window, high if strange.

    >>> normal_score(0.5)
    0.0
    >>> normal_score(0.0), normal_score(1.0)
    (4.0, -4.0)
    """
    if p <= _P_MIN:
        return Z_MAX
    if p >= 1 - _P_MIN:
        return -Z_MAX
    return 0.0 - _NORMAL.inv_cdf(p)  # 0.0 -: no negative zero


class Cusum:
    """One-sided upper CUSUM (Page, 1954): S <- max(0, S + x - k), an alarm when S > threshold.

    Args:
        threshold: the alarm is raised above it; from `calibrate`.
        reference_value: k. Shifts of the mean of x below k are tolerated for ever; the delay for a
            shift d is about threshold / (d - k). Half way between a shift to live with and one to
            notice is best.

    >>> detector = Cusum(threshold=2.0, reference_value=0.5)
    >>> for x in [0, 0, 1.5, 1.5, 1.5]:
    ...     detector.update(x)
    >>> detector.drift_detected, detector.statistic, detector.onset
    (True, 3.0, 3)
    """

    __slots__ = ("onset", "reference_value", "statistic", "threshold")

    def __init__(self, threshold: float, reference_value: float = REFERENCE_VALUE) -> None:
        self.threshold = threshold
        self.reference_value = reference_value
        self.reset()

    def reset(self) -> None:
        """Forget everything that was seen."""
        self.statistic = 0.0
        self.onset = (
            0  # updates since the statistic was last zero: the usual estimate of the change point
        )

    def update(self, x: float) -> None:
        """Take the next normal score."""
        moved = self.statistic + x - self.reference_value
        if moved > 0:
            self.statistic = moved
            self.onset += 1
        else:
            self.reset()

    @property
    def drift_detected(self) -> bool:
        """Whether the statistic is above the threshold now."""
        return self.statistic > self.threshold
