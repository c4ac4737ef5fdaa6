"""Candidates before the gate: which windows, whose answers, and how much is asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgetuner.adapt.answers import Answers, answers_of
from edgetuner.adapt.gate import Verdict, guarded, guards, judge
from edgetuner.config import Config, GateConfig
from edgetuner.inference import ModelVersion
from edgetuner.serving import Serving
from edgetuner.store import Context


class Judge:
    """Judges candidates, each by itself, against those who answer at present.

    Args:
        config: gives the configuration in force.
        answers: of those who answer at present.
    """

    def __init__(self, config: Callable[[], Config], answers: Answers) -> None:
        self._config = config
        self._answers = answers

    @property
    def settings(self) -> GateConfig:
        """Those in force."""
        return self._config().gate

    def proposed(self, candidate: ModelVersion) -> Serving:
        """Who would answer if a candidate went live."""
        if not self._config().adapt.beside:
            return Serving(candidate)
        return self._answers.serving.followed_by(candidate)

    async def verdict(
        self,
        candidate: ModelVersion,
        windows: Context,
        settings: GateConfig,
        *,
        with_labels: bool,
    ) -> Verdict:
        """That of the gate on labelled windows and, where the source is to be retained, of its
        guards.

        Args:
            with_labels: labels go on correcting whoever answers. Then those who answer are held
                against who would answer from now on, all of them corrected; else their own word
                against the candidate's.
        """
        alone = Serving(candidate)
        if with_labels:
            champion = await self._answers.served(windows)
            proposed = await self._answers.would_serve(self.proposed(candidate), windows)
        else:
            champion = await self._answers.on_record(windows)
            proposed = await answers_of(alone, windows.x)
        found = judge(windows.y, champion, proposed, settings, candidate.classes)
        if self._config().adapt.policy == "follow":
            return found
        bundle = candidate.bundle
        mask = guards(bundle.exemplar_y)
        x, y = bundle.exemplar_x[mask].astype(np.float32), bundle.exemplar_y[mask]
        before, after = await self._answers.classes(x), await answers_of(alone, x)
        return guarded(found, y, before, after, settings)


def apart(later: Context, known: Context, window_ns: int) -> NDArray[np.bool_]:
    """Which windows share no sample with one of their stream among the known ones, (N,).

    Those that begin within a window's length of a known one overlap it, whichever is the older: a
    clock that has jumped ahead once does not make all that follows overlap.

    Args:
        window_ns: duration of a window in nanoseconds.
    """
    free = np.ones(len(later), bool)
    for index, key in enumerate(later.keys):
        if key not in known.keys:
            continue
        before = np.sort(known.t_ns[known.stream == known.keys.index(key)])
        mine = np.flatnonzero(later.stream == index)
        if len(before) and len(mine):
            after = np.searchsorted(before, later.t_ns[mine])
            last = before[np.maximum(after - 1, 0)]
            following = before[np.minimum(after, len(before) - 1)]
            nearest = np.minimum(
                np.abs(later.t_ns[mine] - last), np.abs(following - later.t_ns[mine])
            )
            free[mine] = nearest >= window_ns
    return free
