"""How unsure the model is: blind to confident errors, and the only one to see a doubtful choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.drift.mahalanobis import ClassDistance, Floats, Ints

_TINY = 1e-6  # float32 softmax saturates here


def log_odds(_: ClassDistance, __: Floats, ___: Ints, confidence: ArrayLike) -> NDArray[np.float64]:
    """Log-odds against the predicted class, of its softmax probability (N,) -> (N,).

    Raises nothing: a confidence of NaN gives NaN, which the reference names.
    """
    sure = np.clip(np.asarray(confidence, np.float64), _TINY, 1 - _TINY)
    return np.log1p(-sure) - np.log(sure)
