"""The activities that a stream is known by: bouts side by side, as a sound sensor shows them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Floats
from edgetuner.drift.usual import Bout, Usual, misfit, precision

KNOWN = 4  # windows without which nothing is compared with an activity


class Activities:
    """Two bouts or more, `most` of them at most: then one that is hardly known makes room, or else
    the one not seen for longest.

    Attributes:
        bouts: P of them.
        latest: index of the one seen last.
    """

    def __init__(self, usual: Usual, most: int) -> None:
        self._usual = usual
        self._most = most
        self.bouts: list[Bout] = []
        self.latest = 0
        self._seen: list[int] = []  # when each was seen last, as the number of a call
        self._met: list[int] = []  # when each was new, as the caller counts
        self._calls = 0
        features = len(usual.spread)
        self._means, self._weights = np.zeros((2, most, features), np.float32)
        self._counts = np.ones((most, 1), np.float32)

    def __len__(self) -> int:
        return len(self.bouts)

    def learn(self, index: int, rows: Floats) -> None:
        """Windows (N, F) of one of them."""
        self.bouts[index].add(rows)
        self._keep(index)

    def meet(self, rows: Floats, when: int) -> None:
        """Windows (N, F) of one activity, N > 1: one of these, if their mean fits, or a new one.

        Args:
            when: as `doubt` is asked.
        """
        if self.bouts:
            misfits = self.misfits(np.add.reduce(rows) / len(rows), len(rows))
            nearest = int(misfits.argmin())
            if misfits[nearest] < self._usual.limit:
                self.learn(nearest, rows)
                return
        bout = Bout(rows[0], self._usual)
        bout.add(rows[1:])
        if len(self.bouts) < self._most:
            self.bouts.append(bout)
            self._seen.append(0)
            self._met.append(when)
            self._keep(len(self.bouts) - 1)
        else:
            others = [i for i in range(self._most) if i != self.latest]
            worst = min(others, key=lambda i: (self.bouts[i].count >= KNOWN, self._seen[i]))
            self.bouts[worst], self._met[worst] = bout, when
            self._keep(worst)

    def forget(self) -> None:
        """All of them."""
        self.bouts, self._seen, self._met, self.latest = [], [], [], 0

    def doubt(self, since: int) -> None:
        """Forgets those that were new since then: perhaps of a sensor that was broken already."""
        kept = [i for i, met in enumerate(self._met) if met < since]
        self.bouts = [self.bouts[i] for i in kept]
        self._seen, self._met = ([of[i] for i in kept] for of in (self._seen, self._met))
        for column in (self._means, self._weights, self._counts):
            column[: len(kept)] = column[kept]
        self.latest = max(range(len(kept)), key=lambda i: self._seen[i], default=0)

    def well_known(self) -> NDArray[np.int64]:
        """Those that others may be compared with: their indices, the latest first."""
        known = [i for i, bout in enumerate(self.bouts) if bout.count >= KNOWN]
        return np.array(sorted(known, key=lambda i: -self._seen[i]), np.int64)

    def means(self, which: NDArray[np.int64] | slice = slice(None)) -> Floats:
        """Mean features (P, F)."""
        means: Floats = self._means[: len(self.bouts)][which]
        return means

    def precisions(self, count: int, which: NDArray[np.int64] | slice = slice(None)) -> Floats:
        """What a squared step of the means of `count` windows counts (P, F)."""
        size = len(self.bouts)
        return precision(self._weights[:size][which], self._counts[:size][which], count)

    def misfits(self, features: Floats, count: int) -> Floats:
        """Negative log-likelihood of the mean (F,) of `count` windows of each (P,)."""
        step = features - self.means()
        return misfit(step * step * self.precisions(count))

    def nearest(self, features: Floats) -> tuple[NDArray[np.int64], Floats]:
        """Of windows (N, F), the nearest activity (N,) and the squared distance from it (N, F)."""
        step = features[:, None] - self.means()
        distance = step * step * self.precisions(1)  # (N, P, F)
        nearest = np.add.reduce(distance, 2).argmin(1)
        return nearest, distance[np.arange(len(features)), nearest]

    def _keep(self, index: int) -> None:
        bout = self.bouts[index]
        self._means[index], self._weights[index] = bout.mean, bout.weight
        self._counts[index] = bout.count
        self._calls += 1
        self._seen[index], self.latest = self._calls, index
