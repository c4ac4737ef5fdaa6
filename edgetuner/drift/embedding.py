"""How far an embedding lies from the class that the model says it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.drift.mahalanobis import ClassDistance, Floats, Ints

_TINY = 1e-12


def log_distance(
    distance: ClassDistance, embedding: Floats, predicted: Ints, _: ArrayLike
) -> NDArray[np.float64]:
    """Logarithm of the distance of embedding (N, D) to its predicted class (N,) -> (N,).

    A logarithm, since distances are skewed: a class that is twice as far on another day is as much
    of a surprise whether it is near or wide.
    """
    return np.log(distance(embedding, predicted) + _TINY)
