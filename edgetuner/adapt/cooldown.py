"""The wait after an adaptation, and the longer ones after those that failed or were taken back."""

from __future__ import annotations

from collections.abc import Callable

from edgetuner.config import Config

_MOST_DOUBLINGS = 10  # of half a minute: more than eight hours


class Cooldown:
    """How long the next adaptation waits: `adapt.cooldown_s`, twice as long after each failure.

    Args:
        config: gives the configuration in force.
        clock: seconds; not the time of day, which jumps.
    """

    def __init__(self, config: Callable[[], Config], clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._failures = 0  # in a row
        self._over_s = float("-inf")  # on the clock

    @property
    def wait_s(self) -> float:
        """Seconds until it is over; negative if it is."""
        return self._over_s - self._clock()

    def begin(self) -> None:
        """A version has proved itself, or a candidate has not: the ordinary wait."""
        self._over_s = self._clock() + self._config().adapt.cooldown_s

    def back_off(self) -> None:
        """One more failed, or was taken back: twice the wait of the one before."""
        self._over_s = self._clock() + self._config().adapt.cooldown_s * 2**self._failures
        self._failures = min(self._failures + 1, _MOST_DOUBLINGS)

    def forgive(self) -> None:
        """The next failure counts as the first; a wait that has begun stays."""
        self._failures = 0

    def waive(self) -> None:
        """An operator does not wait; how many have failed stays."""
        self._over_s = float("-inf")
