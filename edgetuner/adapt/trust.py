"""Are labels to be believed? What the model said before anybody labelled is a witness of its own.

A model that has lost its way still knows something: after a change of limb it is right in every
fifth window, where chance would be one in nineteen. Labels that somebody gave in good faith agree
with it more often than chance, even where a third of them is wrong; labels that name one class for
another do not, or agree far better once the classes are renamed. And where windows look as they did
at home, the model knows its job, and labels that contradict it say more about themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray

from edgetuner.adapt.matching import best_matching

IntArray = NDArray[np.int64]

_Z = 1.645  # standard errors above chance: one in twenty of labels without any meaning has them
_SHARE = 1 / 3  # of what the classes agree in if they are renamed as it suits the model best
_ORDINARY = 0.1  # p-value above which a window looks as windows did at home
_LEVEL = 0.01  # of the binomial test that labels contradict the model there more often than not
_FEWEST = 8  # labels that an older part is of, and that have to be left
_CONTRADICTION = -1.0  # standard errors of agreement with the model
_FAR = 4.0  # likewise, of what is left
_SEVERAL = 4  # classes that an older part is of: a model that is lost takes one or two all wrong
_CUTS = 16  # places in the labels where something may have changed
_CLASS_LEVEL = 0.05  # likewise of one class, shared out over the classes


def doubt(y: IntArray, witnesses: Sequence[IntArray], classes: Sequence[str]) -> str | None:
    """Why the labels as a whole are not to be believed, in words; None if they are.

    Their newer half has to be believed by itself, though less is asked of so few: what was right
    for long says nothing about who labels now, and the newest labels are what a gate judges by.

    Args:
        y: labels, class indices, in order of arrival, (N,).
        witnesses: what models that never saw these labels say of the windows, (N,) each; who agrees
            best is asked.
        classes: names of the K classes.
    """
    newer = slice(len(y) // 2, None)
    reason = _by_chance(y, witnesses, classes, _Z) or _by_chance(
        y[newer], [predicted[newer] for predicted in witnesses], classes, 0.0, "newest "
    )
    if reason is not None:
        return reason
    agreed = max(int((y == predicted).sum()) for predicted in witnesses)
    renamed = max(_renamed(y, predicted, len(classes)) for predicted in witnesses)
    if agreed < _SHARE * renamed:
        return (
            f"the {len(y)} labels agree with the model in {agreed} windows, and in {renamed} if "
            "the classes are renamed"
        )
    return None


def _by_chance(
    y: IntArray,
    witnesses: Sequence[IntArray],
    classes: Sequence[str],
    least: float,
    which: str = "",
) -> str | None:
    size = len(classes)
    best = max(witnesses, key=lambda predicted: agreement(y, predicted, size))
    agreed = int((y == best).sum())
    if agreement(y, best, size) < least:
        return (
            f"the {len(y)} {which}labels agree with the model in {agreed} windows, no more than by "
            "chance"
        )
    most = int(np.bincount(y).argmax())
    if 2 * (y == most).sum() > len(y) and all(
        agreement((y == most).astype(int), (predicted == most).astype(int), 2) < least
        for predicted in witnesses
    ):
        return (
            f"most of the {len(y)} {which}labels say {classes[most]}, and the model sees no more "
            "of it there than elsewhere"
        )
    return None


def discredited(y: IntArray, witnesses: Sequence[IntArray], classes: Sequence[str]) -> int:
    """How many of the oldest labels are not to be believed, since those after them are.

    Whoever mislabelled for a while may be put right, and what he said stays. An older part of
    several classes is looked for that agrees with the model less often than by chance, while the
    rest is believed, and far beyond chance, since many parts are tried; where it ends is told by
    where the contradiction is strongest, and from there on while half of it stands. Of 115 contexts
    of honest labels this left out none; of 570 labels of attacks it left out 271, and 10 right
    ones.

    Args:
        y, witnesses, classes: as for `doubt`.
    """
    found = {}
    for cut in range(_FEWEST, len(y) - _FEWEST + 1, max(1, len(y) // _CUTS)):
        if len(np.unique(y[:cut])) >= _SEVERAL:
            found[cut] = max(agreement(y[:cut], seen[:cut], len(classes)) for seen in witnesses)
    strongest = min(found.values(), default=0.0)
    if strongest >= _CONTRADICTION:
        return 0
    for cut in reversed(found):
        rest, seen_rest = y[cut:], [seen[cut:] for seen in witnesses]
        agreed = max(agreement(rest, seen, len(classes)) for seen in seen_rest)
        if found[cut] > strongest / 2 or agreed < _FAR:
            continue
        if doubt(rest, seen_rest, classes) is None:
            return cut
    return 0


def disputed(
    y: IntArray, predicted: IntArray, p_values: NDArray[np.float64]
) -> str | NDArray[np.bool_]:
    """Which labels contradict a model that knows its job, (N,); or why none is to be believed.

    Only where at least half of the windows look as they did at home. There the labels of a class
    are disputed where most of them name another class than the model does, by an exact binomial
    test; if most of all labels do, none is believed.

    Args:
        y: labels, class indices, in order of arrival, (N,).
        predicted: the model's answers, (N,).
        p_values: of the drift reference, low where a window is strange, (N,).
    """
    none = np.zeros(len(y), bool)
    if not len(y) or np.median(p_values) <= _ORDINARY:
        return none
    ordinary = p_values > _ORDINARY
    right = (y == predicted)[ordinary]
    for part in (right, right[len(right) // 2 :]):  # all of them, and the newer half by itself
        if _mostly_wrong(part) <= _LEVEL:
            return (
                f"labels contradict the model in {int((~part).sum())} of {len(part)} windows that "
                "look as windows did at home"
            )
    found = np.unique(y[ordinary])
    doubtful = [
        k for k in found if _mostly_wrong(right[y[ordinary] == k]) <= _CLASS_LEVEL / len(found)
    ]
    return np.isin(y, doubtful)


def agreement(y: IntArray, predicted: IntArray, classes: int) -> float:
    """How many standard errors more windows agree than chance would have it, given how often each
    class was labelled and predicted: mean and variance over all orders of the labels, with half a
    window as correction for continuity.

    Args:
        y, predicted: class indices, (N,).
        classes: K.
    """
    total = len(y)
    if total < 2:
        return 0.0
    labelled = np.bincount(y, minlength=classes).astype(float)
    named = np.bincount(predicted, minlength=classes).astype(float)
    pairs = labelled * named
    mean = pairs.sum() / total
    same = (pairs * (labelled - 1) * (named - 1)).sum()
    other = pairs.sum() ** 2 - (pairs**2).sum()
    variance = mean + (same + other) / (total * (total - 1)) - mean**2
    if variance <= 0:
        return 0.0
    return float(((y == predicted).sum() - 0.5 - mean) / sqrt(variance))


def _renamed(y: IntArray, predicted: IntArray, classes: int) -> int:
    """In how many windows labels and answers agree once the classes are renamed as fits best.

    The names that fit one half of each class are tried on the other: chance finds names, too.
    """
    half = np.zeros(len(y), bool)
    for k in np.unique(y):
        half[np.flatnonzero(y == k)[::2]] = True
    agreed = 0
    for part in (half, ~half):
        counts = np.eye(classes) / (2 * classes)  # classes that tie keep their names
        np.add.at(counts, (y[~part], predicted[~part]), 1)
        names = best_matching(counts)
        agreed += int((names[y[part]] == predicted[part]).sum())
    return agreed


def _mostly_wrong(right: NDArray[np.bool_]) -> float:
    """Exact p-value of so few right ones if right and wrong were equally likely."""
    n, hits = len(right), int(right.sum())
    return float(sum(comb(n, k) for k in range(hits + 1)) / 2**n)
