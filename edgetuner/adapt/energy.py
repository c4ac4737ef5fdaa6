"""The energy that training has used of the day's budget."""

from __future__ import annotations

from collections.abc import Callable

_DAY_S = 86_400.0


class DayEnergy:
    """Joules of the trainings that ended in the last 24 hours.

    Args:
        clock: seconds; not the time of day, which jumps.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._used: list[tuple[float, float]] = []  # when each ended, joules

    def use(self, joules: float) -> None:
        """A training has ended that used so much."""
        self._used = [*self._of_the_day(), (self._clock(), joules)]

    @property
    def used_j(self) -> float:
        """The sum, in joules."""
        return sum(joules for _, joules in self._of_the_day())

    def _of_the_day(self) -> list[tuple[float, float]]:
        day_ago = self._clock() - _DAY_S
        return [(ended, joules) for ended, joules in self._used if ended > day_ago]
