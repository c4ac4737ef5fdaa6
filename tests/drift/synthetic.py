"""Embeddings, confidences and predictions of an imaginary model, with known statistics."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift import Reference, calibrate

WIDTH, CLASSES = 12, ("walk", "sit", "lie")


class Windows(NamedTuple):
    """What a model made of N windows."""

    embedding: NDArray[np.float64]  # (N, D)
    y: NDArray[np.int64]
    confidence: NDArray[np.float64]
    recording: NDArray[np.int64]


def windows(
    rng: np.random.Generator,
    bouts: int = 90,
    length: int = 24,
    *,
    correlation: float = 0.0,
    wearer: float = 0.0,
    shift: float = 0.0,
) -> Windows:
    """Bouts of `length` windows, each of the next class.

    Args:
        correlation: lag-1 autocorrelation of the noise within a bout.
        wearer: how far each bout's centre lies from its class (standard deviation per dimension).
        shift: added to every dimension and taken from the logit of the confidence.
    """
    shape = (bouts, length, WIDTH + 1)  # the last column is the logit of the confidence
    noise = rng.normal(size=shape)
    for t in range(1, length):
        noise[:, t] *= np.sqrt(1 - correlation**2)
        noise[:, t] += correlation * noise[:, t - 1]
    noise += wearer * rng.normal(size=(bouts, 1, WIDTH + 1))
    y = np.repeat(np.arange(bouts) % len(CLASSES), length)
    flat = noise.reshape(-1, WIDTH + 1)
    spread = np.array([0.5, 1.0, 2.0])[y]
    return Windows(
        embedding=10.0 * y[:, None] + spread[:, None] * flat[:, :WIDTH] + shift,
        y=y,
        confidence=1 / (1 + np.exp(-3 + shift - flat[:, WIDTH])),
        recording=np.repeat(np.arange(bouts), length),
    )


def reference(rng: np.random.Generator, bouts: int = 90, **how: Any) -> Reference:
    """A reference that is not calibrated; the rest as for `windows`."""
    fitted, held = windows(rng, bouts, **how), windows(rng, bouts, **how)
    return Reference.fit(
        fitted.embedding,
        fitted.y,
        held.embedding,
        held.y,
        held.confidence,
        CLASSES,
        held_recording=held.recording,
    )


def calibrated(seed: int = 0, run_length: float = 2000) -> Reference:
    """A reference with thresholds."""
    return calibrate(reference(np.random.default_rng(seed)), run_length)
