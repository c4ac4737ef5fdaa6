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
        self._refused: dict[bool, int] = {}  # labelled windows, by whether labels spoke, too

    @property
    def of_this_context(self) -> bool:
        """Whether the live version was trained on the present context."""
        return self._classes is not None

    def begin(self, classes: int | None) -> None:
        """A version goes live that was trained on so many labelled classes of this context, or None
        if it comes from another one. What was refused before does not matter to its successor.
        """
        self._classes, self._refused = classes, {}

    def know(self, classes: int) -> None:
        """So many classes of this context are as well known as those that were trained on."""
        if self._classes is not None:
            self._classes = classes

    def forget(self) -> None:
        """A version from before is live again; what was refused stays refused."""
        self._classes = None

    def refuse(self, labels: int, *, with_labels: bool) -> None:
        """A candidate from so many labelled windows did not pass the gate.

        Args:
            with_labels: labels corrected either side: its own word may be better all the same. One
                that is no better by itself is not with labels.
        """
        self._refused[True] = labels
        if not with_labels:
            self._refused[False] = labels

    def outgrown(self, classes: int) -> bool:
        """Whether the context shows half as many labelled classes more by now, so that the live
        version is to be made anew.
        """
        return self._classes is not None and classes >= ceil(_MORE_CLASSES * self._classes)

    @property
    def unfinished(self) -> bool:
        """Whether a candidate that labels made needless has yet to be tried without them."""
        return self._refused.get(True, 0) > self._refused.get(False, 0)

    def repeated(self, labels: int, *, with_labels: bool) -> str | None:
        """Why a candidate would be no better than the one that was refused last, in words: hardly
        any of these labelled windows are new.

        Args:
            with_labels: whether labels would correct either side.
        """
        refused = self._refused.get(with_labels, 0)
        wanted = ceil(_MORE_LABELS * refused)
        if labels >= wanted or labels < refused:  # or it is another context
            return None
        reason = (
            f"{labels} labelled windows, {wanted} are needed after the candidate that was refused"
        )
        return f"{reason}, or none for five minutes" if with_labels else reason
