from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.trust import LABELS, Scene, table

Y = np.repeat(np.arange(5), 30)
DRAW = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("kind", "right"),
    [("honest", (1, 1)), ("10 % flipped", (0.85, 0.95)), ("30 %", (0.6, 0.8)), ("permuted", (0, 0)),
     ("the next class", (0, 0)), ("at random", (0.1, 0.3)), ("one class", (0.2, 0.4))],
)  # fmt: skip
def test_labels_are_as_wrong_as_they_are_called(kind: str, right: tuple[float, float]) -> None:
    y = LABELS[kind](Y, 5, DRAW)
    assert right[0] <= (y == Y).mean() <= right[1]
    assert y.min() >= 0 and y.max() < 5


def test_a_scene_tells_honest_labels_from_permuted_ones() -> None:
    half = np.where(np.arange(len(Y)) % 2 == 0, Y, 0)
    scene = Scene("", Y, half, half, np.full(len(Y), 0.01), ("a", "b", "c", "d", "e"))
    assert scene.believed(LABELS["honest"], 10, DRAW)
    assert not scene.believed(LABELS["permuted"], 10, DRAW)


def test_the_table_has_a_row_a_scene() -> None:
    row = {kind: [True, False] for kind in LABELS}
    assert table({"at home": row}).splitlines()[-1].startswith("| at home | 0.50 |")
