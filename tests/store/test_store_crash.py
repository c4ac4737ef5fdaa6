"""SIGKILL at any moment: what was acknowledged is there."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from tests.store.crash_child import SHAPE, label_of, predicted_of
from tests.store.windows import KEY, opened, same_bits, samples

LIVES = 10
ROOT = Path(__file__).parents[2]


def test_what_was_acknowledged_survives_sigkill(path: Path) -> None:
    acknowledged: defaultdict[str, list[int]] = defaultdict(list)
    for life in range(LIVES):
        for line in live_and_die(path, seed=life):
            kind, seq = line.split()
            acknowledged[kind].append(int(seq))
        check(path, acknowledged)
    assert len(acknowledged["p"]) == len(set(acknowledged["p"])), "a window is predicted once"
    assert all(acknowledged[kind] for kind in "wlp")


def live_and_die(path: Path, seed: int) -> list[str]:
    """Lets a child work until it has said a random number of lines, and kills it at whatever."""
    command = [sys.executable, "-m", "tests.store.crash_child", str(path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(random.Random(seed).randint(1, 1000))]
        child.kill()
        said += child.stdout.readlines()
    return [line for line in said if line.endswith("\n")]  # the last one may be cut short


def check(path: Path, acknowledged: dict[str, list[int]]) -> None:
    with closing(opened(path, shape=SHAPE)) as store:
        predicted = store.context({KEY: 0}, 10**6)
        waiting = store.unpredicted(10**6)
        unpublished = [recorded.window.seq for recorded in store.unpublished()]
        last = store.cursors(KEY[0])[KEY[1]]

    windows = dict(zip(predicted.seq.tolist(), predicted.x, strict=True))
    windows |= {window.seq: window.x for window in waiting}
    assert len(windows) == len(predicted) + len(waiting), "a window is there once"
    assert sorted(windows) == list(range(last + 1)), "no hole, and nothing beyond the cursor"
    assert set(acknowledged["w"]) <= windows.keys()
    assert all(same_bits(x, samples(seq, SHAPE)) for seq, x in windows.items())

    labels = dict(zip(predicted.seq.tolist(), predicted.y.tolist(), strict=True))
    labels |= {window.seq: -1 if window.label is None else window.label for window in waiting}
    arrived = [seq for seq in acknowledged["l"] if seq <= last]
    assert [labels[seq] for seq in arrived] == [label_of(seq) for seq in arrived]

    seqs = predicted.seq.tolist()
    assert set(acknowledged["p"]) <= set(seqs)
    assert predicted.predicted.tolist() == [predicted_of(seq) for seq in seqs]
    assert unpublished == seqs[len(seqs) - len(unpublished) :], "the newest, if any"
