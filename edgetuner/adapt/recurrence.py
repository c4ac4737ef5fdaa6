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
_AS_AT_HOME = 0.1  # macro-F1 below its own held-out one at which a version still does well


@dataclass
class Recurrence:
    """When earlier versions are asked about one context, and how much is asked of them.

    Attributes:
        context: the window at which the drift of each stream was found.
        labels: of these streams, when they were asked last.
        tries: how often they were asked.
        versions: how many there are.
    """

    context: Mapping[StreamKey, int]
    labels: int = 0
    tries: int = 0
    versions: int = 0

    def waits(self, labels: int, gate: GateConfig) -> str | None:
        """Why training has to wait, in words: a drift found late comes with labels enough to train,
        and none yet that an earlier version could be asked with.
        """
        if not self.versions or self.tries or labels >= gate.min_windows:
            return None
        return (
            f"{labels} labelled windows since the drift was found, {gate.min_windows} are needed "
            "to ask earlier versions before one is trained"
        )

    def due(self, labels: int, gate: GateConfig) -> bool:
        """Whether it is time to ask: as soon as the gate could tell, then at twice the labels."""
        return labels >= max(gate.min_windows, 2 * self.labels)

    def ask(self, labels: int, gate: GateConfig, versions: int) -> GateConfig:
        """What each of so many versions has to prove, now that they are asked with so many labels.

        The chance that any of them passes by luck is that of a single candidate: it is shared out
        over the versions (Bonferroni), and halved with every time that they are asked.
        """
        level = gate.max_p_value / (max(1, versions) * 2**self.tries)
        self.labels, self.tries = labels, self.tries + 1
        return gate.model_copy(update={"max_p_value": level})


def at_home(f1: float | None, manifest: Manifest) -> bool:
    """Whether a version that reaches this macro-F1 does as well as it did where it comes from.

    One that beats the champion and yet has lost much since its own time has met something else:
    training will do better. A version that does not say how good it was is taken at its word.
    """
    home = manifest.metrics.get("held_out_macro_f1")
    return f1 is not None and (home is None or f1 >= home - _AS_AT_HOME)


def knows(verdict: Verdict, manifest: Manifest) -> bool:
    """Whether an earlier version may be taken again instead of training a new one."""
    return verdict.passed and at_home(verdict.candidate_f1, manifest)
