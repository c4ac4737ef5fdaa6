from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from edgetuner.adapt.answers import Look
from edgetuner.adapt.belief import Belief
from edgetuner.config import Config
from edgetuner.store import Context
from tests.adapt.test_judge import A, context

TRUE = np.arange(60) % 3


class Witness:
    """A model that is right of the first half of all windows, and says nonsense of the rest."""

    async def look(self, x: Any) -> Look:
        said = np.where(np.arange(len(x)) < 30, TRUE[: len(x)], (TRUE[: len(x)] + 1) % 3)
        return Look(said, np.ones(len(x), np.float32), np.zeros(len(x)))

    async def restated(self, live: Any, x: Any, of: Any) -> Any:
        return (await self.look(x)).predicted


def labelled(until: int) -> Context:
    """Sixty windows, of which so many have their label."""
    windows = context((A,), [0] * 60, list(range(60)))
    return replace(windows, y=np.where(np.arange(60) < until, TRUE, -1))


def version(name: str) -> Any:
    class Live:
        id = name
        classes = ("calm", "brisk", "fast")

    return Live()


async def test_what_was_believed_before_a_doubt_is_trained_on_once_labels_have_stopped() -> None:
    answers: Any = Witness()
    belief, live = Belief(Config, answers), version("live")
    believed = await belief.weigh(labelled(30), live, with_labels=True)
    assert isinstance(believed, Context) and (believed.y >= 0).sum() == 30
    more = labelled(60)
    found = await belief.weigh(more, live, with_labels=True)
    assert isinstance(found, str) and "--trust-labels" in found
    assert belief.standing(60, live, with_labels=True) == found
    assert belief.standing(60, live, with_labels=False) is None, "to be tried"
    kept = await belief.weigh(more, live, with_labels=False)
    assert isinstance(kept, Context)
    assert (kept.y[:30] == TRUE[:30]).all() and (kept.y[30:] == -1).all()
    assert belief.left_out == 30 and "30 more" in belief.explain("too few")


async def test_a_doubt_that_was_tried_without_more_labels_stands() -> None:
    answers: Any = Witness()
    belief, live = Belief(Config, answers), version("live")
    await belief.weigh(labelled(30), live, with_labels=True)
    later = replace(labelled(60), row=np.arange(100, 160))  # another context, none of it believed
    found = await belief.weigh(later, live, with_labels=True)
    assert await belief.weigh(later, live, with_labels=False) == found
    assert belief.standing(60, live, with_labels=False) == found, "no need to look every second"
    assert belief.left_out == 0


async def test_another_witness_has_not_believed_them() -> None:
    answers: Any = Witness()
    belief = Belief(Config, answers)
    await belief.weigh(labelled(30), version("before"), with_labels=True)
    for with_labels in (True, False):
        found = await belief.weigh(labelled(60), version("live"), with_labels=with_labels)
        assert isinstance(found, str)
    assert belief.standing(60, version("live"), with_labels=False) is not None


async def test_an_operator_may_vouch_for_all_of_them() -> None:
    answers: Any = Witness()
    belief = Belief(Config, answers)
    belief.vouched = True
    everything = labelled(60)
    assert await belief.weigh(everything, version("live"), with_labels=False) is everything
