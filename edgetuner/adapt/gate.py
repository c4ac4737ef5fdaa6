"""The gate: may a candidate replace the champion? Decided on labelled windows that it was not
trained on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetuner.config import GateConfig
from edgetuner.metrics import macro_f1

IntArray = NDArray[np.int64]
_EVERY = 4
_LOST = 2  # guards: one alone is no evidence, whatever it is in macro-F1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate saw, and what it said.

    Attributes:
        passed: whether the candidate may go live.
        reason: why (not), in words.
        windows: how many held-out windows it rests on.
        champion_f1, candidate_f1: macro-F1 over the classes among those windows, 0 to 1.
        p_value: of McNemar's exact test that the candidate is not better.
        source_champion_f1, source_candidate_f1: on the guards of the source, under `retain`.
    """

    passed: bool
    reason: str
    windows: int
    champion_f1: float | None = None
    candidate_f1: float | None = None
    p_value: float | None = None
    source_champion_f1: float | None = None
    source_candidate_f1: float | None = None

    def to_wire(self) -> dict[str, Any]:
        """JSON-compatible values; what was not measured is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def judge(y: IntArray, champion: IntArray, candidate: IntArray, settings: GateConfig) -> Verdict:
    """Compares the predictions of both versions, (N,) class indices each, with the labels y
    (N,).
    """
    if len(y) < settings.min_windows:
        return Verdict(
            False, f"{len(y)} held-out windows, {settings.min_windows} are needed", len(y)
        )
    champion_f1, candidate_f1 = macro_f1(y, champion), macro_f1(y, candidate)
    p = mcnemar(better=candidate == y, worse=champion == y)
    gain = candidate_f1 - champion_f1
    if gain < settings.min_gain:
        reason = f"macro-F1 {gain:+.3f}, at least +{settings.min_gain:.3f} is asked"
    elif p > settings.max_p_value:
        reason = f"macro-F1 {gain:+.3f} may be chance: p = {p:.3f} > {settings.max_p_value}"
    else:
        reason = (
            f"macro-F1 {champion_f1:.3f} -> {candidate_f1:.3f} on {len(y)} windows, p = {p:.3g}"
        )
    passed = gain >= settings.min_gain and p <= settings.max_p_value
    return Verdict(passed, reason, len(y), champion_f1, candidate_f1, p)


def guards(y: IntArray) -> NDArray[np.bool_]:
    """Which exemplars of the source, of classes y (N,), guard it: every fourth of a class, which
    `retain` does not train on; of fewer, the last.
    """
    mask = np.zeros(len(y), bool)
    for label in np.unique(y):
        mine = np.flatnonzero(y == label)
        if len(mine) > 1:
            every = min(_EVERY, len(mine))
            mask[mine[every - 1 :: every]] = True
    return mask


def guarded(
    verdict: Verdict, y: IntArray, champion: IntArray, candidate: IntArray, settings: GateConfig
) -> Verdict:
    """The verdict, or a refusal where the candidate has lost too much of the source.

    Args:
        y, champion, candidate: classes of the guards and what both versions make of them, (N,).
    """
    if not len(y):
        return replace(
            verdict, passed=False, reason="no exemplar of the source is left to guard it"
        )
    before, after = macro_f1(y, champion), macro_f1(y, candidate)
    verdict = replace(verdict, source_champion_f1=before, source_candidate_f1=after)
    lost = int(
        ((champion == y) & (candidate != y)).sum() - ((champion != y) & (candidate == y)).sum()
    )
    if before - after <= settings.max_source_loss or lost < _LOST:
        return verdict
    reason = (
        f"macro-F1 on the source {before:.3f} -> {after:.3f}, at most "
        f"-{settings.max_source_loss:.3f} is allowed"
    )
    return replace(verdict, passed=False, reason=reason)


def mcnemar(better: NDArray[np.bool_], worse: NDArray[np.bool_]) -> float:
    """Exact one-sided p-value that `better` is right no more often than `worse` (McNemar, 1947).

    Only the windows on which exactly one of them is right count; under the null hypothesis each
    falls to either side with probability one half.

    Args:
        better, worse: where each model is right, (N,).
    """
    wins, losses = int((better & ~worse).sum()), int((worse & ~better).sum())
    n = wins + losses
    return float(sum(comb(n, k) for k in range(wins, n + 1)) / 2**n)
