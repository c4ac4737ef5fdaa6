from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgetuner.errors import StoreError
from edgetuner.store import Entry, Store
from tests.store.windows import KEY, add, add_predicted, entry, label

Reopen = Callable[..., Store]
BIG = (4, 256)  # 4 KiB: more than a page with its row
ROOM = 256 << 10


def big(seq: int) -> Entry:
    return Entry(*KEY, seq, seq, np.full(BIG, seq, np.float32), crc32=seq)


def fill(store: Store, seqs: range, labelled: range = range(0)) -> None:
    """Stores, predicts and labels, a few at a time, so that there is always something to prune."""
    for start in seqs[::4]:
        batch = range(start, min(start + 4, seqs.stop))
        windows = [receipt.window for receipt in store.add([big(seq) for seq in batch])]
        store.record([(window.row, 1, 0.5, "v1") for window in windows if window is not None])
        store.add_labels([label(seq, 0) for seq in batch if seq in labelled])


@pytest.fixture(params=["all", "memory"])
def small(reopen: Reopen, request: pytest.FixtureRequest) -> Store:
    return reopen(shape=BIG, max_bytes=ROOM, durability=request.param)


def test_the_oldest_go_and_the_room_is_kept(small: Store) -> None:
    fill(small, range(200))
    assert small.used_bytes <= ROOM + (40 << 10), "at most the last commit beyond its room"
    kept = small.context({KEY: 0}, 1000)
    assert kept.seq.tolist() == list(range(kept.seq[0], 200))
    assert (kept.x == kept.seq[:, None, None]).all()
    assert kept.seq[0] > 0


def test_labelled_windows_are_kept_longest(small: Store) -> None:
    fill(small, range(200), labelled=range(10))
    seqs = small.context({KEY: 0}, 1000).seq.tolist()
    assert seqs[:10] == list(range(10))
    assert seqs[10] > 100


def test_labelled_windows_go_when_there_is_nothing_else(small: Store) -> None:
    fill(small, range(200), labelled=range(200))
    seqs = small.context({KEY: 0}, 1000).seq
    assert seqs[0] > 100
    assert seqs[-1] == 199


def test_the_row_outlives_the_samples(small: Store) -> None:
    fill(small, range(100))
    assert 0 not in small.context({KEY: 0}, 1000).seq
    duplicate, conflict = small.add([big(0), entry(0, x=big(0).x, crc32=77)])
    assert (duplicate.outcome, conflict.outcome) == ("duplicate", "conflict")
    assert small.add_labels([label(0, 1)])[0].outcome == "stored"


def test_in_the_end_the_row_goes_and_its_seq_is_expired(small: Store) -> None:
    fill(small, range(2 * ROOM // 1024))
    assert small.add([big(0)])[0].outcome == "expired"
    assert small.add_labels([label(0, 1)])[0].outcome == "expired"


def test_what_awaits_its_prediction_is_never_pruned(small: Store) -> None:
    seq = 0
    with pytest.raises(StoreError, match="full of windows that await their prediction"):
        while seq < 1000:
            small.add([big(seq)])
            seq += 1
    waiting = small.unpredicted(1000)
    assert [window.seq for window in waiting] == list(range(seq))
    small.record([(window.row, 1, 0.5, "v1") for window in waiting])
    assert small.add([big(seq)])[0].outcome == "stored", "it goes on once there is room"


def test_pruning_survives_closing_and_rows_are_never_used_again(reopen: Reopen) -> None:
    options = {"shape": BIG, "max_bytes": ROOM}
    store = reopen(**options)
    fill(store, range(200))
    before = store.context({KEY: 0}, 1000)
    store = reopen(**options)
    assert store.context({KEY: 0}, 1000).row.tolist() == before.row.tolist()
    (receipt,) = store.add([big(200)])
    assert receipt.window is not None and receipt.window.row == before.row[-1] + 1


def test_a_sampled_store_prunes_what_is_on_disk_too(reopen: Reopen) -> None:
    options = {
        "shape": BIG,
        "max_bytes": ROOM,
        "durability": "sampled",
        "sample_every": 2,
    }
    store = reopen(**options)
    fill(store, range(200))
    kept = store.context({KEY: 0}, 1000).seq
    after = reopen(**options).context({KEY: 0}, 1000).seq
    assert after.tolist() == [seq for seq in kept.tolist() if seq % 2 == 0]


def test_nothing_is_pruned_while_there_is_room(store: Store) -> None:
    add_predicted(store, *range(50))
    add(store, 50)
    assert store.prune() == 0
    assert len(store.context({KEY: 0}, 100)) == 50


def test_old_labels_do_not_crowd_out_the_present(small: Store) -> None:
    """Labels come late: what they are for has to be there still."""
    fill(small, range(200), labelled=range(200))
    fill(small, range(200, 400))
    seqs = small.context({KEY: 0}, 1000).seq
    assert (seqs >= 200).sum() >= 0.4 * len(seqs)
    assert (seqs < 200).any(), "and they keep their half"


def test_samples_of_a_window_that_has_gone_are_not_held(small: Store) -> None:
    fill(small, range(200), labelled=range(200))
    gone = small.context({KEY: 0}, 1000).row.tolist()[0]
    fill(small, range(200, 600), labelled=range(200, 600))
    x, held = small.samples([gone, 10**9])
    assert not held.any() and not x.any()
    assert small.labels([10**9]) == {}
