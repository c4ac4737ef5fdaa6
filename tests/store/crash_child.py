"""Stores, labels and predicts for ever, and says after each call what it was told.

    python -m tests.store.crash_child FILE SEED

A line is `w SEQ`, `l SEQ` or `p SEQ`: a window, a label, a prediction is acknowledged. Labels and
predictions follow from the seq, so that whoever reads the store knows what they have to be.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from pathlib import Path

from edgetuner.store import Store
from tests.store.windows import KEY, entry, label, opened, samples

SHAPE = (6, 128)


def run(store: Store, chance: random.Random) -> None:
    while True:
        start = store.next_seqs().get(KEY, 0)
        seqs = range(start, start + chance.randint(1, 20))
        receipts = store.add([entry(seq, x=samples(seq, SHAPE)) for seq in seqs])
        say("w", [s for s, r in zip(seqs, receipts, strict=True) if r.outcome == "stored"])

        seqs_labelled = [max(0, start + chance.randint(-50, 50)) for _ in range(5)]
        taken = store.add_labels([label(seq, label_of(seq)) for seq in seqs_labelled])
        known = ("stored", "duplicate", "early")
        say("l", [s for s, r in zip(seqs_labelled, taken, strict=True) if r.outcome in known])

        waiting = store.unpredicted(chance.randint(1, 20))
        first = store.record([(w.row, predicted_of(w.seq), 0.5, "v1") for w in waiting])
        say("p", [w.seq for w, ok in zip(waiting, first, strict=True) if ok])
        store.mark_published({KEY: waiting[-1].seq})


def label_of(seq: int) -> int:
    return seq * 7 % 3


def predicted_of(seq: int) -> int:
    return seq // 5 % 3


def say(kind: str, seqs: Iterable[int]) -> None:
    sys.stdout.write("".join(f"{kind} {seq}\n" for seq in seqs))
    sys.stdout.flush()


if __name__ == "__main__":
    run(opened(Path(sys.argv[1]), shape=SHAPE), random.Random(int(sys.argv[2])))
