"""The gate: may a candidate replace the champion? Decided on labelled windows that it was not
trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetuner.adapt.betting import least_share, wealth
from edgetuner.config import GateConfig
from edgetuner.metrics import macro_f1

IntArray = NDArray[np.int64]
_EVERY = 4
_ROUNDING = 1e-6  # of a gain
_LOST = 2  # guards: one alone is no evidence, whatever it is in macro-F1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate saw, and what it said.

    Attributes:
        passed: whether the candidate may go live.
        reason: why (not), in words.
        windows: how many held-out windows it rests on.
        champion_f1, candidate_f1: macro-F1 over the classes among those windows, 0 to 1.
        evidence: that the candidate is better; see `evidence`.
        gain_low: accuracy by which the candidate is better at least; see `least_gain`. That too has
            to be as much as is asked: a swap that may be worth next to nothing is all risk.
        confidence: of that, 0 to 1.
        worst_class, worst_class_loss: the class that lost most of its recall, and how much.
        source_champion_f1, source_candidate_f1: on the guards of the source, under `retain`.
    """

    passed: bool
    reason: str
    windows: int
    champion_f1: float | None = None
    candidate_f1: float | None = None
    evidence: float | None = None
    gain_low: float | None = None
    confidence: float | None = None
    worst_class: str | None = None
    worst_class_loss: float | None = None
    source_champion_f1: float | None = None
    source_candidate_f1: float | None = None

    def to_wire(self) -> dict[str, Any]:
        """JSON-compatible values; what was not measured is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def judge(
    y: IntArray,
    champion: IntArray,
    candidate: IntArray,
    settings: GateConfig,
    classes: Sequence[str] = (),
) -> Verdict:
    """Compares the predictions of both versions with the labels.

    Args:
        y, champion, candidate: class indices, (N,).
        classes: their names, for the words; without them, their numbers.
    """
    if len(y) < settings.min_windows:
        return Verdict(
            False, f"{len(y)} held-out windows, {settings.min_windows} are needed", len(y)
        )
    champion_f1, candidate_f1 = macro_f1(y, champion), macro_f1(y, candidate)
    better, worse = candidate == y, champion == y
    told, low = evidence(better, worse), least_gain(better, worse, settings.max_p_value)
    gain, confidence = candidate_f1 - champion_f1, 1 - settings.max_p_value
    scores = f"macro-F1 {champion_f1:.3f} -> {candidate_f1:.3f} on {len(y)} windows"
    enough, shown = told * settings.max_p_value >= 1, low > settings.min_gain - _ROUNDING
    if gain < settings.min_gain:
        reason = f"{scores}, at least +{settings.min_gain:.3f} is asked"
    elif not enough:
        reason = (
            f"{scores} may be chance: evidence {told:.1f}, {1 / settings.max_p_value:.3g} is asked"
        )
    elif not shown:
        reason = (
            f"{scores} may be less: accuracy {low:+.3f} at least ({100 * confidence:.4g} % sure), "
            f"+{settings.min_gain:.3f} is asked"
        )
    else:
        reason = f"{scores}, accuracy {low:+.3f} at least ({100 * confidence:.4g} % sure)"
    passed = gain >= settings.min_gain and enough and shown
    verdict = Verdict(passed, reason, len(y), champion_f1, candidate_f1, told, low, confidence)
    return _floored(verdict, y, better, worse, settings, classes)


def _floored(
    verdict: Verdict,
    y: IntArray,
    better: NDArray[np.bool_],
    worse: NDArray[np.bool_],
    settings: GateConfig,
    classes: Sequence[str],
) -> Verdict:
    """The verdict, or a refusal where a class has lost too much of its recall.

    A loss has to be shown as a gain has: two windows of three are no evidence.
    """
    losses = {int(k): float(worse[y == k].mean() - better[y == k].mean()) for k in np.unique(y)}
    worst = max(losses, key=lambda k: losses[k])
    if losses[worst] > 0:
        name = classes[worst] if classes else str(worst)
        verdict = replace(verdict, worst_class=name, worst_class_loss=losses[worst])
    for k, lost in losses.items():
        mine = y == k
        shown = evidence(worse[mine], better[mine]) * settings.max_p_value >= 1
        if lost > settings.max_class_loss and shown:
            name = classes[k] if classes else str(k)
            reason = (
                f"recall of {name} {-lost:+.3f} on {mine.sum()} windows, at most "
                f"-{settings.max_class_loss:.3f} is allowed"
            )
            return replace(verdict, passed=False, reason=reason)
    return verdict


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


def evidence(better: NDArray[np.bool_], worse: NDArray[np.bool_]) -> float:
    """That `better` is right more often than `worse`, as wealth: see `betting`.

    Only the windows on which exactly one of them is right count; if neither is better, each falls
    to either side with probability one half (McNemar 1947).

    Args:
        better, worse: where each is right, (N,).
    """
    return wealth(int((better & ~worse).sum()), int((worse & ~better).sum()))


def least_gain(better: NDArray[np.bool_], worse: NDArray[np.bool_], alpha: float) -> float:
    """By how much of accuracy `better` is better at least: the lower end of an interval that holds
    at every look.

    Of the d windows on which exactly one is right at least a share q falls to `better`
    (`least_share`); given that d of N windows differ, the accuracies differ by (2 q - 1) d / N. It
    is above 0 where `evidence` is above 1 / alpha, and only there.

    Args:
        better, worse: where each is right, (N,).
        alpha: the chance that it is less.
    """
    wins, losses = int((better & ~worse).sum()), int((worse & ~better).sum())
    return (2 * least_share(wins, losses, alpha) - 1) * (wins + losses) / len(better)
