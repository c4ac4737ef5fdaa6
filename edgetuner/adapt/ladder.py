"""The ladder: closed-form head, guesses for unlabelled windows, batch-norm statistics, LoRA-Edge
cores.

Every rung gives a whole model that could be served. Whether it is taken is decided by what it says
of windows that it has not seen, never by assumption; the next one starts from the last one taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetuner.adapt.gate import Verdict, evidence, judge
from edgetuner.adapt.material import Material
from edgetuner.adapt.rungs import RUNGS
from edgetuner.adapt.rungs.head import CHUNK, with_head
from edgetuner.adapt.rungs.reached import Reached, Report
from edgetuner.config import AdaptConfig, GateConfig
from edgetuner.errors import AdaptationError, EdgetunerError
from edgetuner.metrics import macro_f1

# By how many standard errors windows left out must speak for a rung. Statistics of the context are
# right for the windows they are of, and may be wrong for those to come: they have to be clearly
# better. The features of the cores were trained on these windows, so that any lead is expected, and
# none is a bad sign.
_LEAD = {"statistics": 3.0}

_COSTLY = ("cores",)  # rungs that need a backward pass
_LATE = 4.0  # times the evidence: two labels that come during training may make up for it

_Z = 1.645  # of the normal distribution's 95 %


@dataclass(frozen=True, eq=False)
class Climbed:
    """One rung, what it reached, and what speaks for it.

    Attributes:
        rung: its name.
        reached: the model, and what it says of windows left out.
        held_f1: macro-F1 on the held-out windows, or None if there are none.
        seconds: what the rung took.
        taken: whether the next one starts from it.
    """

    rung: str
    reached: Reached
    held_f1: float | None
    seconds: float
    taken: bool

    @property
    def module(self) -> nn.Module:
        """The whole dense model, in eval mode, with the base's keys."""
        return self.reached.module

    @property
    def facts(self) -> dict[str, Any]:
        """Trained weights, trained fraction, norm of the cores, as far as it has them."""
        return self.reached.facts

    def to_wire(self) -> dict[str, Any]:
        """JSON-compatible evidence."""
        wire: dict[str, Any] = {
            "rung": self.rung,
            "seconds": round(self.seconds, 3),
            "taken": self.taken,
            **self.facts,
        }
        return wire if self.held_f1 is None else wire | {"held_f1": round(self.held_f1, 4)}


def climb(
    module: nn.Module,
    material: Material,
    settings: AdaptConfig,
    report: Report,
    gate: GateConfig | None = None,
) -> Iterator[Climbed]:
    """Takes the rungs of `settings.rungs` in turn, each as soon as it is asked for.

    It stops as soon as the gate would be satisfied and hardly a window is left to win, and before a
    costly rung that could mend half of the errors there are and still not satisfy the gate. A rung
    that fails or does not fit a budget is passed over, and the facts of the one before it say so.

    Args:
        module: the champion, in eval mode; not changed.
        gate: what a candidate will have to pass; if None the default one, and no rung is spared.

    Raises:
        EdgetunerError: not even the first one works.
    """
    before: Climbed | None = None
    best = Reached(module)
    asked = material
    for rung in settings.rungs:
        if (
            rung in _COSTLY
            and settings.choose == "best"
            and (before is not None and gate is not None)
            and _in_vain(best.module, module, material, gate)
        ):
            before.facts["spared"] = rung
            report(rung, spared="half of the errors mended would not satisfy the gate")
            break
        begun = time.perf_counter()
        try:
            reached = RUNGS[rung](best, material, settings, report)
        except EdgetunerError as error:  # what was reached so far may do
            if before is None:
                raise
            report(rung, refused=str(error))
            before.facts.setdefault("refused", {})[rung] = str(error)
            continue
        seconds = time.perf_counter() - begun
        taken = settings.choose == "last" or _better(rung, reached, best, material, settings)
        if taken:
            best, material = reached, reached.material or material
        before = Climbed(rung, reached, held_f1(reached.module, material), seconds, taken)
        report(**before.to_wire())
        yield before
        if settings.choose == "best" and _enough(
            best, module, asked, settings, gate or GateConfig()
        ):
            break


def chosen(climbed: Sequence[Climbed]) -> Climbed:
    """The candidate: the last rung that was taken.

    Raises:
        AdaptationError: none was.
    """
    taken = [one for one in climbed if one.taken]
    if not taken:
        raise AdaptationError(
            "windows unseen speak for none of them",
            field="adapt.rungs",
            value=[one.rung for one in climbed],
            remedy="let them begin with head, or wait for more labels",
        )
    return taken[-1]


def _better(
    rung: str, reached: Reached, best: Reached, material: Material, settings: AdaptConfig
) -> bool:
    """Whether windows unseen speak for a rung: those left out, and those held out altogether."""
    if reached.left_out is None:
        return True
    if best.left_out is None:
        if rung not in _LEAD:
            return True
        best = with_head(best.module, material, settings)
        assert best.left_out is not None
    if reached.left_out.lead(best.left_out) <= _LEAD.get(rung, 0.0):
        return False
    ours, theirs = (
        (predict(one.module, material.held_x) == material.held_y.cpu().numpy()).sum()
        for one in (reached, best)
    )
    return bool(ours >= theirs)


def _enough(
    best: Reached,
    champion: nn.Module,
    material: Material,
    settings: AdaptConfig,
    gate: GateConfig,
) -> bool:
    """Whether the gate is satisfied, and hardly a window is left to win."""
    if best.left_out is None:
        return False
    held_y, own_y = material.held_y.cpu().numpy(), material.y.cpu().numpy()
    held = predict(best.module, material.held_x)
    own = best.left_out.predicted[: len(own_y)].numpy()
    right = np.concatenate([held == held_y, own == own_y])
    if not len(right) or proven_share(int(right.sum()), len(right)) < settings.enough:
        return False
    if len(held_y):
        return foretold(best.module, champion, material, gate).passed
    return judge(own_y, predict(champion, material.x), own, gate).passed


def foretold(
    module: nn.Module,
    champion: nn.Module,
    material: Material,
    gate: GateConfig,
    classes: Sequence[str] = (),
) -> Verdict:
    """What the gate says of a module on the held-out windows, against what was served for them, or
    what the champion makes of them where that is not known.
    """
    candidate, served = predict(module, material.held_x), _served(champion, material)
    return judge(material.held_y.cpu().numpy(), served, candidate, gate, classes)


def hopeless(verdict: Verdict, gate: GateConfig) -> bool:
    """Whether windows enough say so little for a candidate that two more will not do: each that it
    alone gets right about doubles the evidence.
    """
    return verdict.evidence is not None and verdict.evidence * gate.max_p_value * _LATE < 1


def _in_vain(module: nn.Module, champion: nn.Module, material: Material, gate: GateConfig) -> bool:
    """Whether the gate would have no evidence even if every second error of a module were mended:
    who is served makes too few for anybody to be told from him.
    """
    y = material.held_y.cpu().numpy()
    right = predict(module, material.held_x) == y
    right[np.flatnonzero(~right)[::2]] = True
    told = evidence(right, _served(champion, material) == y)
    return len(y) >= gate.min_windows and told * gate.max_p_value < 1


def _served(champion: nn.Module, material: Material) -> NDArray[np.int64]:
    """What was served for the held-out windows, (N,); what the champion says where that is not
    known.
    """
    served = material.held_served.cpu().numpy()
    return served if len(served) else predict(champion, material.held_x)


def proven_share(right: int, of: int) -> float:
    """The lower end of Wilson's one-sided 95 % interval (1927) for a share seen as `right` of `of`:
    three dozen windows without an error prove no more than 93 %.
    """
    share, square = right / of, _Z * _Z / of
    spread = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of))
    return (share + square / 2 - spread) / (1 + square)


def held_f1(module: nn.Module, material: Material) -> float | None:
    """Macro-F1 of the module on the held-out windows."""
    if not len(material.held_y):
        return None
    return macro_f1(material.held_y.cpu().numpy(), predict(module, material.held_x))


def predict(module: nn.Module, x: Tensor) -> NDArray[np.int64]:
    """Class indices of normalised windows, (N,)."""
    if not len(x):
        return np.empty(0, np.int64)
    with torch.inference_mode():
        found = torch.cat([module(chunk).argmax(1) for chunk in torch.split(x, CHUNK)])
    return found.cpu().numpy()
