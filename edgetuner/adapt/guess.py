"""Self-training: where labels are too few to train on, windows that two views agree upon.

The labels that there are judge what came of it; none of them is trained on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgetuner.adapt.answers import Answers
from edgetuner.inference import ModelVersion
from edgetuner.store import Context

IntArray = NDArray[np.int64]
_SUREST = 0.5  # of the windows of a class that both views see
_LEAST = 3  # of a class; fewer are more likely a slip than a class


async def guessed(context: Context, live: ModelVersion, answers: Answers) -> Context:
    """The context with guesses for y where there is no label, and -1 where nobody dares to guess.

    The two views are the live version, and the same with the batch-norm statistics of the context.
    """
    rows = np.flatnonzero(context.y < 0)
    seen = await answers.look(context.x[rows])
    restated = await answers.restated(live, context.x[rows], context.x)
    y = context.y.copy()
    y[rows] = balanced_guesses(seen.predicted, restated, seen.confidence)
    return replace(context, y=y)


def balanced_guesses(
    predicted: IntArray, restated: IntArray, confidence: NDArray[np.float32]
) -> IntArray:
    """Guesses, -1 where there is none, (N,).

    Only what both views agree upon; of every class the surest half, so that a class of which the
    model is never sure is not left out (Zou et al. 2018, arXiv 1810.07911); and of none more than
    the class in the middle has, so that the most frequent activity does not swallow the others.

    Args:
        predicted, restated: answers of the two views, (N,).
        confidence: of the first, (N,).
    """
    agreed = predicted == restated
    surest: dict[int, IntArray] = {}
    for k in np.unique(predicted[agreed]):
        mine = np.flatnonzero(agreed & (predicted == k))
        order = mine[np.argsort(-confidence[mine], kind="stable")]
        if len(mine) >= _LEAST:
            surest[int(k)] = order[: max(_LEAST, int(_SUREST * len(mine)))]
    found = np.full(len(predicted), -1, np.int64)
    if surest:
        most = int(np.median([len(rows) for rows in surest.values()]))
        for k, rows in surest.items():
            found[rows[:most]] = k
    return found
