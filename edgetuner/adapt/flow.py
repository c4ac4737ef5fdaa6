"""Do labels keep coming? As long as they do, they answer beside the versions."""

from __future__ import annotations

from collections.abc import Callable

from edgetuner.label_cache import RECENT_S
from edgetuner.pipeline import Pipeline


class Flow:
    """Labels, as they come.

    Args:
        pipeline: knows whether labels answer at all.
        clock: seconds.
    """

    def __init__(self, pipeline: Pipeline, clock: Callable[[], float]) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._latest_s: float | None = None

    def came(self) -> None:
        """One more, or some."""
        self._latest_s = self._clock()

    @property
    def goes_on(self) -> bool:
        """Whether labels correct what is served at present: not where nobody has said anything for
        as long as a label is fresh.
        """
        if self._latest_s is None or not self._pipeline.hears_labels:
            return False
        return self._clock() - self._latest_s < RECENT_S
