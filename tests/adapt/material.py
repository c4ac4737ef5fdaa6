"""What an adaptation of the wave bundle works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgetuner.adapt import job as jobs
from edgetuner.adapt.job import Ask, Job, Windows
from edgetuner.bundle import Bundle, write_bundle
from edgetuner.config import AdaptConfig
from edgetuner.store import Entry, LabelEntry
from tests import waves

if TYPE_CHECKING:
    from edgetuner.pipeline import Pipeline

KEY = ("c", "s")

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


def renamed(base: Path, out: Path, prefix: str = "a1") -> str:
    """A version that takes every class of its base for the next one, in a folder `out`; its id."""
    bundle = Bundle.load(base)
    head = {name: np.roll(bundle.weights[name], 1, 0) for name in ("head.weight", "head.bias")}
    description = bundle.manifest.description.model_copy(
        update={"parent": bundle.version, "adaptation": {"rung": "head"}}
    )
    tensors = replace(bundle, weights={**bundle.weights, **head})
    return write_bundle(out, tensors, description, prefix=prefix).version


async def seen(
    pipeline: Pipeline,
    seqs: Sequence[int],
    *,
    shift: int = 0,
    labelled: bool = True,
    key: tuple[str, str] = KEY,
) -> None:
    """These windows of a stream are stored, predicted and labelled as `shift` classes on."""
    y = [waves.label_of(n) for n in seqs]
    entries = [
        Entry(*key, n, (n + 1) * 10**9, waves.window(n, k), n) for n, k in zip(seqs, y, strict=True)
    ]
    receipts = await pipeline.stored(lambda store: store.add(entries))
    await pipeline.predict([receipt.window for receipt in receipts if receipt.window is not None])
    if labelled:
        said = [LabelEntry(*key, n, (k + shift) % 3, n) for n, k in zip(seqs, y, strict=True)]
        await pipeline.stored(lambda store: store.add_labels(said))
