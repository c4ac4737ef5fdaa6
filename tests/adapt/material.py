"""What an adaptation of the wave bundle works with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgetuner.adapt import job as jobs
from edgetuner.adapt.job import Ask, Job, Windows
from edgetuner.config import AdaptConfig
from tests import waves

# A third of the weights: of so small a net 1.49 % are not even a head.
QUICK = AdaptConfig(steps=30, batch_size=24, choose="last", trained_fraction=0.3)


def windows(count: int = 60) -> Windows:
    """Turned windows, every second one labelled."""
    y = np.array([waves.label_of(n) for n in range(count)])
    x = np.stack([waves.turned(waves.window(n, k)) for n, k in enumerate(y)])
    y = np.where(np.arange(count) % 2 == 0, y, -1)
    stream, t_ns = np.zeros(count, np.int64), np.arange(count) * 10**9
    parts = jobs.split(y, stream, t_ns, share=0.3, window_ns=10**9)
    return Windows(x, y, stream, t_ns, parts)


def job(folder: Path, base: Path, settings: AdaptConfig = QUICK) -> Job:
    """A job directory for them."""
    ask = Ask(
        job="20260101T000000-0001", created="2026-01-01T00:00:00+00:00", why="", settings=settings
    )
    return Job.create(folder, ask, base, windows())
