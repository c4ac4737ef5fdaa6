"""Which labels are believed: honest ones, partly wrong ones, hostile ones, after real shifts.

    .venv/bin/python -m benchmarks.trust > benchmarks/results/trust.md

Two minutes, once the source models are there (`benchmarks.accuracy` makes them too).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.shifts import SHIFTS, Case, case
from edgetuner.adapt.trust import disputed, doubt
from edgetuner.inference import ModelVersion

IntArray = NDArray[np.int64]
Liar = Callable[[IntArray, int, np.random.Generator], IntArray]
BACKBONES = ("small_cnn", "t_resnet")
PER_CLASS = (4, 6, 10)
TRIALS = 25


def flipped(share: float) -> Liar:
    """Labels of which a share names any other class."""

    def lie(y: IntArray, classes: int, draw: np.random.Generator) -> IntArray:
        other = (y + draw.integers(1, classes, len(y))) % classes
        return np.where(draw.random(len(y)) < share, other, y)

    return lie


def permuted(y: IntArray, classes: int, draw: np.random.Generator) -> IntArray:
    """Every class under the name of another one."""
    names = np.arange(classes)
    while (names == np.arange(classes)).any():
        names = draw.permutation(classes)
    return names[y]


def next_class(y: IntArray, classes: int, draw: np.random.Generator) -> IntArray:
    """Every class under the name of the next one, which may be alike."""
    return (y + 1) % classes


def at_random(y: IntArray, classes: int, draw: np.random.Generator) -> IntArray:
    """Labels without meaning."""
    return draw.integers(0, classes, len(y))


def one_class(y: IntArray, classes: int, draw: np.random.Generator) -> IntArray:
    """Nine labels of ten name the same class."""
    return np.where(draw.random(len(y)) < 0.9, draw.integers(classes), y)


LABELS: Mapping[str, Liar] = {
    "honest": flipped(0.0),
    "10 % flipped": flipped(0.1),
    "20 %": flipped(0.2),
    "30 %": flipped(0.3),
    "permuted": permuted,
    "the next class": next_class,
    "at random": at_random,
    "one class": one_class,
}


@dataclass(frozen=True, eq=False)
class Scene:
    """Windows with their classes, and what the source model says of them, (N,) each."""

    name: str
    y: IntArray
    predicted: IntArray
    restated: IntArray
    p_values: NDArray[np.float64]
    classes: tuple[str, ...]

    def believed(self, lie: Liar, per_class: int, draw: np.random.Generator) -> bool:
        """Whether labels of so many windows a class, told by a liar, would be trained on."""
        rows = np.concatenate(
            [
                draw.permutation(np.flatnonzero(self.y == k))[:per_class]
                for k in range(len(self.classes))
            ]
        )
        rows = draw.permutation(rows)
        y = lie(self.y[rows], len(self.classes), draw)
        witnesses = [self.predicted[rows], self.restated[rows]]
        if doubt(y, witnesses, self.classes) is not None:
            return False
        return not isinstance(disputed(y, witnesses[0], self.p_values[rows]), str)


def scenes(backbones: Sequence[str] = BACKBONES) -> Iterator[Scene]:
    """Every shift, and home, for each net."""
    for backbone in backbones:
        seen = set()
        for shift in SHIFTS:
            one = case(shift, backbone)
            yield _scene(f"{shift.dataset}, {shift.name}", one, one.pool.x, one.pool.y)
            if one.bundle.version not in seen:
                seen.add(one.bundle.version)
                yield _scene("at home", one, one.home.x, one.home.y)


def _scene(name: str, one: Case, x: NDArray[np.float32], y: IntArray) -> Scene:
    version = ModelVersion(one.bundle)
    restated = version.restated(x)
    parts = np.array_split(x, -(-len(x) // 64))
    out = [version.predict(part) for part in parts]
    p_values = [
        version.reference.p_values(o.embeddings, o.predicted, o.confidence)["embedding"]
        for o in out
    ]
    return Scene(
        name,
        y,
        np.concatenate([o.predicted for o in out]),
        np.concatenate([restated.predict(part).predicted for part in parts]),
        np.concatenate(p_values),
        tuple(one.pool.classes),
    )


def table(found: Mapping[str, Mapping[str, Sequence[bool]]]) -> str:
    """Markdown: the share of trials in which labels were believed, a row a scene."""
    lines = [f"| | {' | '.join(LABELS)} |", "|---" * (len(LABELS) + 1) + "|"]
    for name, row in found.items():
        shares = " | ".join(f"{np.mean(row[kind]):.2f}" for kind in LABELS)
        lines.append(f"| {name} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each setting")
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    found: dict[str, dict[str, list[bool]]] = {}
    for scene in scenes():
        row = found.setdefault(scene.name, {kind: [] for kind in LABELS})
        for kind, lie in LABELS.items():
            row[kind] += [
                scene.believed(lie, count, draw)
                for count in PER_CLASS
                for _ in range(options.trials)
            ]
    print(f"Share of trials in which labels were believed; {PER_CLASS} windows a class,")
    print(f"{BACKBONES}, {options.trials} draws each.\n")
    print(table(found))


if __name__ == "__main__":
    main()
