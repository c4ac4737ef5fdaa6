"""Circumstances come back: an earlier version may know them, and needs no training.

Few labels tell that it does, where training would need many; and it is judged as a candidate is, on
windows that it cannot have seen, since they came after the drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgetuner.adapt.gate import Verdict
from edgetuner.bundle import Manifest
from edgetuner.config import GateConfig

StreamKey = tuple[str, str]
_AHEAD = 2.0  # evidence: that of two windows or so
_AS_AT_HOME = 0.1  # macro-F1 below its own held-out one at which a version still does well


@dataclass
class Recurrence:
    """When earlier versions are asked about one context, and how much is asked of them.

    Attributes:
        context: the window at which the drift of each stream was found.
        labels: of these streams, when they were asked last.
        asked: whether they have been.
        promising: one of them is ahead as far as labels tell, and these are too few to prove it.
        versions: how many there are.
    """

    context: Mapping[StreamKey, int]
    labels: int = 0
    asked: bool = False
    promising: bool = False
    versions: int = 0

    def waits(self, labels: int, gate: GateConfig, *, with_labels: bool) -> str | None:
        """Why training has to wait, in words: a drift found late comes with labels enough to train,
        and none yet that an earlier version could be asked with; or one is ahead, and as long as
        labels keep coming there will be enough to be sure of it.
        """
        promising = self.promising and with_labels
        needed = (2 if promising else 1) * gate.min_windows
        if not self.versions or labels >= needed or (self.asked and not promising):
            return None
        return (
            f"{labels} labelled windows since the drift was found, {needed} are needed to ask "
            "earlier versions before one is trained"
        )

    def due(self, labels: int, gate: GateConfig) -> bool:
        """Whether it is time to ask: as soon as the gate could tell, then at half as many labels
        more.
        """
        return 2 * labels >= max(2 * gate.min_windows, 3 * self.labels)

    def ask(self, labels: int, gate: GateConfig, versions: int) -> GateConfig:
        """What each of so many versions has to prove, now that they are asked with so many labels.

        The chance that any of them passes by luck is that of a single candidate: it is shared out
        over the versions (Bonferroni), and a bet may be looked at as often as one likes.
        """
        self.labels, self.asked, self.promising = labels, True, False
        return gate.model_copy(update={"max_p_value": gate.max_p_value / max(1, versions)})


def at_home(f1: float | None, manifest: Manifest) -> bool:
    """Whether a version that reaches this macro-F1 does as well as it did where it comes from.

    One that beats the champion and yet has lost much since its own time has met something else:
    training will do better. A version that does not say how good it was is taken at its word.
    """
    home = manifest.metrics.get("held_out_macro_f1")
    return f1 is not None and (home is None or f1 >= home - _AS_AT_HOME)


def may_know(verdict: Verdict, manifest: Manifest) -> bool:
    """Whether an earlier version does as well as in its own time and is ahead, proved or not."""
    ahead = verdict.evidence is not None and verdict.evidence >= _AHEAD
    return ahead and at_home(verdict.candidate_f1, manifest)


def knows(verdict: Verdict, manifest: Manifest) -> bool:
    """Whether an earlier version may be taken again instead of training a new one."""
    return verdict.passed and at_home(verdict.candidate_f1, manifest)
