"""Any order of calls, and of restarts, against a dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgetuner.store import Key
from tests.store.windows import CLASSES, entry, label, opened, same_bits, samples

keys = st.sampled_from([("a", "x"), ("a", "y"), ("b", "x")])
classes = st.integers(0, len(CLASSES) - 1)


class StoreMachine(RuleBasedStateMachine):
    """`held` is the model: stream -> seq -> [label, prediction, refused]."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="et-")
        self.path = Path(self.folder.name) / "windows.db"
        self.store = opened(self.path)
        self.held: dict[Key, dict[int, dict[str, Any]]] = {}
        self.last: dict[Key, int] = {}
        self.early: dict[tuple[Key, int], int] = {}
        self.lost: dict[Key, int] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(
        key=keys,
        step=st.sampled_from([1, 1, 1, 1, 0, -1, -3, 2, 5]),
        plain=st.booleans(),
        refused=st.sampled_from([False, False, False, True]),
        changed=st.sampled_from([False, False, True]),
    )
    def add(self, key: Key, step: int, plain: bool, refused: bool, changed: bool) -> None:
        seq = max(0, self.last.get(key, 3) + step)
        what: dict[str, Any] = {"plain": plain}
        if refused:
            what |= {"x": None, "refusal": "window"}
        if changed and seq in self.held.get(key, {}):
            what["crc32"] = 1
        (receipt,) = self.store.add([entry(seq, key, **what)])
        assert receipt.outcome == self.expected_outcome(key, seq, plain, refused, "crc32" in what)
        if receipt.outcome in ("stored", "refused") and seq > self.last.get(key, -1):
            self.take(key, seq, refused)
        assert receipt.expected == self.last[key] + 1

    def expected_outcome(
        self, key: Key, seq: int, plain: bool, refused: bool, changed: bool
    ) -> str:
        fresh = "refused" if refused else "stored"
        if key not in self.last or seq == self.last[key] + 1:
            return fresh
        if seq > self.last[key]:
            return fresh if plain else "gap"
        if seq not in self.held[key]:
            return "expired"
        was_refused = self.held[key][seq]["refused"]
        if changed or (was_refused and not refused):
            return "conflict"
        return "refused" if was_refused else "duplicate"

    def take(self, key: Key, seq: int, refused: bool) -> None:
        self.lost[key] = self.lost.get(key, 0) + seq - self.last.get(key, seq - 1) - 1
        early = self.early.get((key, seq))
        self.held.setdefault(key, {})[seq] = {
            "label": None if refused else early,
            "predicted": None,
            "refused": refused,
        }
        self.last[key] = seq
        self.early = {(k, s): index for (k, s), index in self.early.items() if k != key or s > seq}

    @rule(key=keys, back=st.integers(-4, 6), index=classes)
    def label(self, key: Key, back: int, index: int) -> None:
        seq = max(0, self.last.get(key, 3) - back)
        (receipt,) = self.store.add_labels([label(seq, index, key)])
        if key not in self.last:
            assert receipt.outcome == "unknown_stream"
        elif seq > self.last[key]:
            before = self.early.get((key, seq))
            assert receipt.outcome == change_of(before, index, first="early")
            self.early[key, seq] = index
        elif seq not in self.held[key]:
            assert receipt.outcome == "expired"
        elif self.held[key][seq]["refused"]:
            assert receipt.outcome == "refused"
        else:
            window = self.held[key][seq]
            assert receipt.outcome == change_of(window["label"], index, first="stored")
            assert receipt.predicted == window["predicted"]
            window["label"] = index

    @rule(limit=st.integers(1, 4), index=classes)
    def predict(self, limit: int, index: int) -> None:
        windows = self.store.unpredicted(limit)
        for window in windows:
            assert same_bits(window.x, samples(window.seq))
            held = self.held[window.client, window.stream][window.seq]
            assert held["predicted"] is None
            assert held["label"] == window.label
            held["predicted"] = index
        predictions = [(window.row, index, 0.5, "v1") for window in windows]
        assert all(self.store.record(predictions))
        assert not any(self.store.record(predictions))

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = opened(self.path)

    @invariant()
    def cursors_agree(self) -> None:
        assert self.store.next_seqs() == {key: last + 1 for key, last in self.last.items()}
        assert {k: s.lost for k, s in self.store.streams().items()} == self.lost

    @invariant()
    def windows_agree(self) -> None:
        starts = dict.fromkeys(self.last, 0)
        context = self.store.context(starts, 1000)
        found = {
            (context.keys[i], seq): (None if y < 0 else y, predicted)
            for i, seq, y, predicted in zip(
                context.stream.tolist(),
                context.seq.tolist(),
                context.y.tolist(),
                context.predicted.tolist(),
                strict=True,
            )
        }
        assert found == {
            (key, seq): (window["label"], window["predicted"])
            for key, windows in self.held.items()
            for seq, window in windows.items()
            if window["predicted"] is not None
        }
        labels = [y for y, _ in found.values() if y is not None]
        counts = [labels.count(index) for index in range(len(CLASSES))]
        assert self.store.count_labels(starts).tolist() == counts


def change_of(before: int | None, after: int, *, first: str) -> str:
    if before is None:
        return first
    return "duplicate" if before == after else "replaced"


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
