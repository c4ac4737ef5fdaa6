from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt.judge import Judge, apart  # noqa: E402
from edgetuner.config import Config  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402
from edgetuner.store import Context  # noqa: E402
from tests import waves  # noqa: E402

A, B = ("c", "a"), ("c", "b")


def context(keys: tuple[tuple[str, str], ...], stream: list[int], t_ns: list[int]) -> Context:
    n = len(stream)
    y = np.array([waves.label_of(t) for t in t_ns], np.int64)
    x = np.stack([waves.window(t, int(k)) for t, k in zip(t_ns, y, strict=True)])
    zeros = np.zeros(n, np.int64)
    versions = np.array(["v"] * n, np.str_)
    return Context(
        keys, x, y, zeros, zeros, zeros.astype(float), np.arange(n), np.array(stream, np.int64),
        np.array(t_ns, np.int64), np.array(t_ns, np.int64), versions, {},
    )  # fmt: skip


def test_windows_that_overlap_known_ones_of_their_stream_are_not_apart() -> None:
    known = context((A, B), [0, 0, 1], [10, 20, 5])
    later = context((B, A), [1, 1, 0, 0], [25, 30, 14, 15])
    assert apart(later, known, 10).tolist() == [False, True, False, True]
    assert apart(later, context(((("c", "z")),), [0], [100]), 10).all()


def test_a_clock_that_jumped_once_does_not_make_all_that_follows_overlap() -> None:
    known = context((A,), [0, 0, 0], [10, 5_000, 20])
    later = context((A,), [0, 0, 0, 0], [30, 40, 4_995, 2])
    assert apart(later, known, 10).tolist() == [True, True, False, False]


def test_contexts_are_joined_by_the_names_of_their_streams() -> None:
    joined = context((A,), [0], [1]).followed_by(context((B, A), [0, 1], [2, 3]))
    assert [joined.keys[k] for k in joined.stream] == [A, B, A]
    assert joined.t_ns.tolist() == [1, 2, 3] and joined.x.shape == (3, 3, 32)


def test_the_source_guards_only_where_it_is_to_be_retained(wave_bundle: Path) -> None:
    class Stale:
        """A live version that says the first class of everything."""

        async def on_record(self, windows: Context) -> Any:
            return np.zeros(len(windows), np.int64)

        async def classes(self, x: Any) -> Any:
            return np.zeros(len(x), np.int64)

    answers: Any = Stale()
    version = ModelVersion.load(wave_bundle)
    windows = context((A,), [0] * 24, list(range(24)))
    for policy in ("follow", "retain"):
        config = Config.model_validate({"adapt": {"policy": policy}})
        judge = Judge(lambda config=config: config, answers)  # type: ignore[misc]
        verdict = asyncio.run(judge.verdict(version, windows, judge.settings, with_labels=False))
        assert verdict.passed and verdict.candidate_f1 == 1
        assert (verdict.source_candidate_f1 is not None) == (policy == "retain")
