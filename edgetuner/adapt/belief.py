"""Which labels of a context are trained on: those that are believed, until an operator vouches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgetuner.adapt.answers import Answers
from edgetuner.adapt.trust import discredited, disputed, doubt
from edgetuner.config import Config
from edgetuner.inference import ModelVersion
from edgetuner.store import Context

_TRUST = "check them, or have them believed by `edgetuner adapt --trust-labels`"
_MORE = 1.2  # times the labels that were doubted last: time to look again


class Belief:
    """What is thought of the labels of the present context.

    Args:
        config: gives the configuration in force.
        answers: of the live version, the witness.

    Attributes:
        vouched: an operator says that the labels are right.
        left_out: labels that the last look at them left out.
    """

    def __init__(self, config: Callable[[], Config], answers: Answers) -> None:
        self._config = config
        self._answers = answers
        # labels, whether more were to come, and why they were not believed
        self._doubted: tuple[int, bool, str] | None = None
        self._believed: tuple[str, int] | None = None  # by which version, up to which row
        self.vouched = False
        self.left_out = 0

    def reset(self) -> None:
        """Something came of them; the next ones are looked at anew."""
        self._doubted, self.vouched = None, False

    def standing(self, labels: int, live: ModelVersion, *, with_labels: bool) -> str | None:
        """Why labels were not believed, until there are so many more that it may have changed, or
        those from before the doubt are to be used by themselves; see `weigh`.
        """
        if self._doubted is None or self.vouched:
            return None
        then, coming, reason = self._doubted
        if coming and not with_labels and self._before_doubt(live) is not None:
            return None
        return reason if then <= labels < _MORE * then else None

    async def weigh(
        self, context: Context, live: ModelVersion, *, with_labels: bool
    ) -> Context | str:
        """The context without the labels that are not believed; or why none of them is.

        Args:
            live: the witness.
            with_labels: labels go on coming, so that more may clear up a doubt. Else those of
                windows up to where the same witness has believed labels are weighed by themselves.
        """
        self.left_out = 0
        if self.vouched or not self._config().adapt.doubt_labels:
            return context
        rows = np.flatnonzero(context.y >= 0)
        x, y = context.x[rows], context.y[rows]
        seen = await self._answers.look(x)
        restated = await self._answers.restated(live, x, context.x)
        older = np.zeros(len(rows), bool)
        for stream in np.unique(context.stream[rows]):  # whoever labels, labels his own
            mine = np.flatnonzero(context.stream[rows] == stream)
            witnesses = [seen.predicted[mine], restated[mine]]
            older[mine[: discredited(y[mine], witnesses, live.classes)]] = True
        later = ~older
        found = doubt(y[later], [seen.predicted[later], restated[later]], live.classes) or disputed(
            y[later], seen.predicted[later], seen.p_values[later]
        )
        if isinstance(found, str):
            reason = f"{found}: {_TRUST}"
            until = None if with_labels else self._before_doubt(live)
            before = context.row[rows] <= (-1 if until is None else until)
            weighed: Context | str = reason
            if before.any() and not before.all():
                kept = context.y.copy()
                kept[rows[~before]] = -1
                weighed = await self.weigh(replace(context, y=kept), live, with_labels=False)
            self._doubted = len(rows), with_labels, reason
            if isinstance(weighed, str):
                return reason
            self.left_out += int((~before).sum())
            return weighed
        self._believed = live.id, int(context.row[rows].max(initial=-1))
        kept = context.y.copy()
        kept[rows[older]] = -1
        kept[rows[later][found]] = -1
        self.left_out = int(older.sum() + found.sum())
        return replace(context, y=kept)

    def _before_doubt(self, live: ModelVersion) -> int | None:
        """Up to which row labels were believed when this version was asked; None if never."""
        version, row = self._believed or ("", -1)
        return row if version == live.id else None

    def explain(self, shortage: str) -> str:
        """Why the labels that are left do not do, with those that were left out, if any."""
        if not self.left_out:
            return shortage
        return (
            f"{shortage}; {self.left_out} more are doubted: they contradict the model where "
            f"windows look as at home, or came before or after labels that do not: {_TRUST}"
        )
