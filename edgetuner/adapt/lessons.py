"""What the last trainings were given, and whether another one would be given more."""

from __future__ import annotations

from math import ceil

_MORE_LABELS = 1.4  # times those of a candidate that was refused, before the next one
_MORE_CLASSES = 1.5  # times those that a version was trained on, for it to be made anew


class Lessons:
    """What the live version has learned of the present context, and what taught a candidate too
    little to pass the gate.
    """

    def __init__(self) -> None:
        self._classes: int | None = None  # labelled ones; None if it was not trained for this
        self._refused_with = 0  # labelled windows

    @property
    def of_this_context(self) -> bool:
        """Whether the live version was trained on the present context."""
        return self._classes is not None

    def begin(self, classes: int | None) -> None:
        """A version goes live that was trained on so many labelled classes of this context, or None
        if it comes from another one. What was refused before does not matter to its successor.
        """
        self._classes, self._refused_with = classes, 0

    def know(self, classes: int) -> None:
        """So many classes of this context are as well known as those that were trained on."""
        if self._classes is not None:
            self._classes = classes

    def forget(self) -> None:
        """A version from before is live again; what was refused stays refused."""
        self._classes = None

    def refuse(self, labels: int) -> None:
        """A candidate from so many labelled windows did not pass the gate."""
        self._refused_with = labels

    def outgrown(self, classes: int) -> bool:
        """Whether the context shows half as many labelled classes more by now, so that the live
        version is to be made anew.
        """
        return self._classes is not None and classes >= ceil(_MORE_CLASSES * self._classes)

    def repeated(self, labels: int) -> str | None:
        """Why a candidate would be no better than the one that was refused last, in words: hardly
        any of these labelled windows are new.
        """
        wanted = ceil(_MORE_LABELS * self._refused_with)
        if labels >= wanted or labels < self._refused_with:  # or it is another context
            return None
        return (
            f"{labels} labelled windows, {wanted} are needed after the candidate that was refused"
        )
