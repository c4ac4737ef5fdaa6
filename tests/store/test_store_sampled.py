"""Memory, with a part of it on disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgetuner.store import Store
from tests.store.windows import KEY, add, add_predicted, entry, label, opened, same_bits, samples

OPTIONS = {"durability": "sampled", "sample_every": 4}


@pytest.fixture
def sampled(path: Path) -> Iterator[Store]:
    with closing(opened(path, **OPTIONS)) as store:
        yield store


@pytest.fixture
def after_a_crash(path: Path, tmp_path: Path) -> Callable[[], Store]:
    """Opens a copy of the files as they lie: what a SIGKILL at this moment leaves."""

    def after_a_crash() -> Store:
        copy = tmp_path / "copy.db"
        for suffix in ("", "-wal"):
            subprocess.run(["cp", f"{path}{suffix}", f"{copy}{suffix}"], check=True)
        return opened(copy, **OPTIONS)

    return after_a_crash


Crash = Callable[[], Store]


def test_receipts_are_durable_for_what_is_there_after_a_crash(
    sampled: Store, after_a_crash: Crash
) -> None:
    entries = [entry(seq, label=1 if seq == 6 else None) for seq in range(10)]
    receipts = sampled.add(entries)
    durable = [seq for seq, receipt in enumerate(receipts) if receipt.durable]
    assert durable == [0, 4, 6, 8]
    with closing(after_a_crash()) as store:
        windows = store.unpredicted(100)
        assert [window.seq for window in windows] == durable
        assert all(same_bits(window.x, samples(window.seq)) for window in windows)
        assert [window.label for window in windows] == [None, None, 1, None]


def test_the_whole_of_it_is_worked_on(sampled: Store) -> None:
    add_predicted(sampled, *range(10))
    assert sampled.context({KEY: 0}, 100).seq.tolist() == list(range(10))


def test_a_late_label_brings_its_window_to_disk(sampled: Store, after_a_crash: Crash) -> None:
    add_predicted(sampled, *range(10))
    assert sampled.add_labels([label(5, 2), label(8, 0)])[0].durable
    with closing(after_a_crash()) as store:
        context = store.context({KEY: 0}, 100)
        assert context.seq.tolist() == [0, 4, 5, 8]
        assert context.y.tolist() == [-1, -1, 2, 0]
        assert context.predicted.tolist() == [1] * 4
        assert same_bits(context.x[2], samples(5))


def test_a_duplicate_is_durable_if_its_window_is(sampled: Store) -> None:
    add(sampled, 0, 1)
    assert [receipt.durable for receipt in sampled.add([entry(0), entry(1)])] == [True, False]


def test_an_early_label_is_kept_with_its_stream(sampled: Store, after_a_crash: Crash) -> None:
    add(sampled, 1)  # not on disk, and so neither is its stream
    assert sampled.add_labels([label(3, 2)])[0].durable
    with closing(after_a_crash()) as store:
        receipts = store.add([entry(2), entry(3)])
        assert receipts[1].window is not None
        assert receipts[1].window.label == 2


def test_a_stream_goes_on_after_a_crash_though_the_store_forgot(
    sampled: Store, after_a_crash: Crash
) -> None:
    add(sampled, *range(5))
    add(sampled, 5, 6)  # neither goes to disk, and so neither does the cursor
    with closing(after_a_crash()) as store:
        assert store.cursors(KEY[0]) == {KEY[1]: 4}
        receipts = store.add([entry(7), entry(9), entry(8)])
        assert [(r.outcome, r.lost) for r in receipts] == [("stored", 2), ("gap", 0), ("stored", 0)]
        assert store.streams()[KEY].lost == 2


def test_closing_keeps_the_cursors(path: Path) -> None:
    with closing(opened(path, **OPTIONS)) as store:
        add_predicted(store, *range(7))
        store.mark_published({KEY: 6})
    with closing(opened(path, **OPTIONS)) as store:
        assert store.cursors(KEY[0]) == {KEY[1]: 6}
        assert store.add([entry(2)])[0].outcome == "expired"
        assert store.unpublished() == []


def test_what_is_on_disk_is_a_store_of_its_own(path: Path) -> None:
    with closing(opened(path, **OPTIONS)) as store:
        add(store, *range(9))
    with closing(opened(path, durability="all")) as store:
        assert [window.seq for window in store.unpredicted(100)] == [0, 4, 8]
        add(store, 9)
