from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgetuner.errors import LabelError, UsageError
from edgetuner.store import Receipt, Store
from tests.store.windows import (
    CLASSES,
    KEY,
    SHAPE,
    add,
    add_predicted,
    entry,
    label,
    opened,
    same_bits,
    samples,
)

Reopen = Callable[..., Store]
OTHER = ("phone", "pocket")


def outcomes(store: Store, *seqs: int) -> list[str]:
    return [receipt.outcome for receipt in store.add([entry(seq) for seq in seqs])]


# windows


def test_stores_in_sequence_and_gives_the_window_back_bit_for_bit(store: Store) -> None:
    (receipt,) = store.add([entry(5)])
    assert (receipt.outcome, receipt.expected, receipt.durable) == ("stored", 6, True)
    assert receipt.window is not None
    assert same_bits(receipt.window.x, samples(5))
    assert (receipt.window.client, receipt.window.stream, receipt.window.seq) == (*KEY, 5)
    assert receipt.window.t_ns == 5_000


def test_windows_survive_closing_bit_for_bit(reopen: Reopen) -> None:
    add(reopen(), *range(40))
    windows = reopen().unpredicted(100)
    assert [window.seq for window in windows] == list(range(40))
    assert all(same_bits(window.x, samples(window.seq)) for window in windows)


def test_a_stored_window_is_not_the_callers_memory(store: Store) -> None:
    mine = entry(0)
    (receipt,) = store.add([mine])
    assert mine.x is not None and receipt.window is not None
    mine.x[:] = 0
    assert same_bits(receipt.window.x, samples(0))


def test_a_gap_stores_nothing_and_says_where_to_go_on(store: Store) -> None:
    receipts = store.add([entry(0), entry(2), entry(1), entry(2)])
    assert [receipt.outcome for receipt in receipts] == ["stored", "gap", "stored", "stored"]
    assert receipts[1] == Receipt("gap", expected=1)
    assert [window.seq for window in store.unpredicted(10)] == [0, 1, 2]


def test_a_resent_window_is_a_duplicate_and_not_stored_twice(store: Store) -> None:
    add(store, 0, 1)
    assert store.add([entry(0)]) == [Receipt("duplicate", expected=2, durable=True)]
    assert len(store.unpredicted(10)) == 2


def test_duplicates_within_one_batch(store: Store) -> None:
    assert outcomes(store, 3, 3, 4, 3) == ["stored", "duplicate", "stored", "duplicate"]


def test_another_window_under_the_same_seq_is_a_conflict(store: Store) -> None:
    add(store, 0)
    assert store.add([entry(0, crc32=1)]) == [Receipt("conflict", expected=1)]


def test_a_seq_before_the_first_is_expired(store: Store) -> None:
    add(store, 10)
    assert store.add([entry(9)]) == [Receipt("expired", expected=11)]


def test_a_refused_window_consumes_its_seq_and_is_never_predicted(store: Store) -> None:
    refused = entry(1, x=None, refusal="window")
    receipts = store.add([entry(0), refused, entry(2)])
    assert [r.outcome for r in receipts] == ["stored", "refused", "stored"]
    assert receipts[1] == Receipt("refused", expected=2, durable=True)
    assert [window.seq for window in store.unpredicted(10)] == [0, 2]
    assert store.record([(2, 0, 0.5, "v1")]) == [False]


def test_a_refused_window_is_refused_again_and_nothing_can_take_its_place(store: Store) -> None:
    refused = entry(0, x=None, refusal="window")
    store.add([refused])
    assert store.add([refused]) == [Receipt("refused", expected=1, durable=True)]
    assert outcomes(store, 0) == ["conflict"]


def test_the_plain_plane_counts_what_is_missing(store: Store) -> None:
    receipts = store.add([entry(seq, plain=True) for seq in (4, 7, 8)])
    assert [(r.outcome, r.lost) for r in receipts] == [("stored", 0), ("stored", 2), ("stored", 0)]
    assert store.streams()[KEY].lost == 2


def test_the_plain_plane_drops_what_comes_late(store: Store) -> None:
    store.add([entry(0, plain=True), entry(3, plain=True)])
    assert [r.outcome for r in store.add([entry(1, plain=True), entry(3, plain=True)])] == [
        "expired",
        "duplicate",
    ]
    assert store.streams()[KEY].duplicates == 2
    assert store.streams()[KEY].lost == 2


def test_streams_do_not_disturb_each_other(store: Store) -> None:
    add(store, 0, 1)
    add(store, 7, key=("watch", "ankle"))
    add(store, 3, key=OTHER)
    assert store.cursors("watch") == {"wrist": 1, "ankle": 7}
    assert store.cursors("nobody") == {}
    assert store.next_seqs() == {KEY: 2, ("watch", "ankle"): 8, OTHER: 4}


def test_no_room_for_a_further_stream(reopen: Reopen) -> None:
    store = reopen(max_streams=2)
    receipts = store.add([entry(0, (f"c{i}", "s")) for i in range(3)])
    assert [receipt.outcome for receipt in receipts] == ["stored", "stored", "busy"]
    assert store.next_seqs() == {("c0", "s"): 1, ("c1", "s"): 1}
    add(store, 1, key=("c1", "s"))


def test_counters_survive_closing(reopen: Reopen) -> None:
    store = reopen()
    add(store, 0, 1)
    store.add([entry(2, x=None, refusal="window"), entry(0), entry(5, plain=True)])
    store.add([entry(0)])  # changes a counter only
    store.add_labels([label(1, 2)])
    before = store.streams()[KEY]
    assert (before.accepted, before.refused, before.duplicates) == (3, 1, 2)
    assert (before.lost, before.labelled, before.last_seq) == (2, 1, 5)
    assert reopen().streams()[KEY] == before


def test_after_the_last_number_there_is_none(store: Store) -> None:
    last = 2**63 - 1  # an older service took it
    store.add([entry(last, plain=True, t_ns=0)])
    assert store.next_seqs() == {KEY: last}
    assert store.count_labels(store.next_seqs()).sum() == 0
    assert len(store.context(store.next_seqs(), 10)) == 0


@pytest.mark.parametrize(
    "bad",
    [
        entry(0, x=samples(0, (2, 15))),
        entry(0, x=samples(0).astype(np.float64)),
        entry(0, x=None),
        entry(-1 + 2**64, x=samples(0)),
        entry(0, t_ns=2**63),
    ],
)
def test_what_is_no_window_stores_nothing_of_its_batch(store: Store, bad: object) -> None:
    with pytest.raises(UsageError, match=r"^(x|seq, t_ns): "):
        store.add([entry(0, OTHER), bad])  # type: ignore[list-item]
    assert store.streams() == {}
    add(store, 0, key=OTHER)


def test_memory_says_that_nothing_is_durable() -> None:
    store = opened(None, durability="memory")
    assert [r.durable for r in store.add([entry(0), entry(0)])] == [False, False]
    assert not store.add_labels([label(0, 1)])[0].durable
    assert store.bytes_written == 0
    store.close()


def test_a_store_on_disk_needs_a_path() -> None:
    with pytest.raises(UsageError, match="durability: a store on disk needs a path"):
        opened(None)


# labels


def test_a_late_label_finds_its_window(reopen: Reopen) -> None:
    store = reopen()
    rows = add_predicted(store, 0, 1)
    (receipt,) = store.add_labels([label(0, 2)])
    assert (receipt.outcome, receipt.durable, receipt.row) == ("stored", True, rows[0])
    assert (receipt.predicted, receipt.version) == (1, "v1")
    assert reopen().context({KEY: 0}, 10).y.tolist() == [2, -1]


def test_the_same_label_again_and_another_one(store: Store) -> None:
    add_predicted(store, 0)
    receipts = store.add_labels([label(0, 2), label(0, 2), label(0, 1)])
    assert [receipt.outcome for receipt in receipts] == ["stored", "duplicate", "replaced"]
    assert store.context({KEY: 0}, 10).y.tolist() == [1]
    assert store.streams()[KEY].labelled == 1


def test_an_early_label_waits_for_its_window(reopen: Reopen) -> None:
    store = reopen()
    add(store, 0)
    receipts = store.add_labels([label(2, 0), label(2, 0), label(2, 1)])
    assert [receipt.outcome for receipt in receipts] == ["early", "duplicate", "replaced"]
    assert all(receipt.durable for receipt in receipts)
    store = reopen()
    first, second = store.add([entry(1), entry(2)])
    assert first.window is not None and first.window.label is None
    assert second.window is not None and second.window.label == 1
    assert store.streams()[KEY].labelled == 1


def test_a_label_of_its_own_comes_with_a_window(store: Store) -> None:
    (receipt,) = store.add([entry(0, label=2)])
    assert receipt.window is not None and receipt.window.label == 2
    assert store.add_labels([label(0, 2)])[0].outcome == "duplicate"


def test_an_early_label_goes_with_a_lost_window(store: Store) -> None:
    store.add([entry(0, plain=True)])
    store.add_labels([label(1, 0)])
    store.add([entry(2, plain=True)])
    assert store.add_labels([label(1, 0)])[0].outcome == "expired"
    assert store.streams()[KEY].labelled == 0


def test_labels_that_cannot_be_joined(store: Store) -> None:
    store.add([entry(5, x=None, refusal="window")])
    receipts = store.add_labels(
        [label(0, 1, OTHER), label(4, 1), label(5, 1), label(5 + 4097, 1), label(5 + 4096, 1)]
    )
    assert [receipt.outcome for receipt in receipts] == [
        "unknown_stream",
        "expired",
        "refused",
        "too_early",
        "early",
    ]
    assert not any(receipt.durable for receipt in receipts[:4])


@pytest.mark.parametrize("index", [-1, len(CLASSES)])
def test_a_label_that_is_no_class_stores_nothing_of_its_batch(store: Store, index: int) -> None:
    add_predicted(store, 0)
    with pytest.raises(LabelError, match=r"label: not the index of a class .*; give 0 to 2"):
        store.add_labels([label(0, 1), label(0, index)])
    with pytest.raises(LabelError):
        store.add([entry(1, label=index)])
    assert store.context({KEY: 0}, 10).y.tolist() == [-1]
    assert store.next_seqs() == {KEY: 1}


# predictions


def test_a_window_has_one_prediction(reopen: Reopen) -> None:
    store = reopen()
    (row,) = add(store, 0)
    assert store.record([(row, 2, 0.25, "v1"), (row, 1, 0.5, "v2")]) == [True, False]
    assert store.record([(row, 0, 0.5, "v3"), (row + 1, 0, 0.5, "v3")]) == [False, False]
    context = reopen().context({KEY: 0}, 10)
    assert (context.predicted.tolist(), context.confidence.tolist()) == ([2], [0.25])
    assert context.version.tolist() == ["v1"]


def test_what_was_not_predicted_is_there_after_a_restart_in_order(reopen: Reopen) -> None:
    store = reopen()
    rows = add(store, 0, 1) + add(store, 4, key=OTHER) + add(store, 2)
    store.record([(rows[1], 0, 0.5, "v1")])
    store = reopen()
    assert [w.row for w in store.unpredicted(10)] == [rows[0], rows[2], rows[3]]
    assert [w.row for w in store.unpredicted(1, after=rows[0])] == [rows[2]]


@pytest.mark.parametrize(
    ("predicted", "confidence"), [(3, 0.5), (-1, 0.5), (0, float("nan")), (0, float("inf"))]
)
def test_what_is_no_prediction_records_nothing_of_its_batch(
    store: Store, predicted: int, confidence: float
) -> None:
    rows = add(store, 0, 1)
    with pytest.raises(UsageError, match="prediction: not a prediction of this task"):
        store.record([(rows[0], 0, 0.5, "v1"), (rows[1], predicted, confidence, "v1")])
    assert len(store.unpredicted(10)) == 2


def test_predictions_are_unpublished_until_marked(reopen: Reopen) -> None:
    store = reopen()
    rows = add_predicted(store, 0, 1, 2) + add_predicted(store, 0, key=OTHER)
    store.mark_published({KEY: 1})
    found = reopen().unpublished()
    assert [recorded.window.row for recorded in found] == rows[2:]
    assert found[0].prediction == (rows[2], 1, 0.5, "v1", None)
    assert same_bits(found[0].window.x, samples(2))


def test_what_labels_overruled_is_on_record(reopen: Reopen) -> None:
    store = reopen()
    rows = add(store, 0, 1)
    store.record([(rows[0], 1, 0.5, "v1", 0), (rows[1], 1, 0.5, "v1")])
    store = reopen()
    assert [recorded.prediction.overruled for recorded in store.unpublished()] == [0, None]
    assert [recorded.prediction.predicted for recorded in store.unpublished()] == [1, 1]
    assert store.context({KEY: 0}, 9).predicted.tolist() == [0, 1], "what models are judged by"
    (receipt,) = store.add_labels([label(0, 1)])
    assert receipt.predicted == 0
    with pytest.raises(UsageError, match="prediction"):
        store.record([(add(store, 2)[0], 1, 0.5, "v1", 99)])


def test_a_watermark_never_falls(store: Store) -> None:
    add_predicted(store, 0, 1)
    store.mark_published({KEY: 1})
    store.mark_published({KEY: 0})
    assert store.unpublished() == []


# an adaptation


def test_context_is_the_newest_in_order_of_arrival(store: Store) -> None:
    rows = add_predicted(store, 0, 1) + add_predicted(store, 5, key=OTHER) + add_predicted(store, 2)
    add(store, 3)  # awaits its prediction
    store.add_labels([label(1, 0), label(5, 2, OTHER)])
    context = store.context({KEY: 0, OTHER: 0}, 3)
    assert context.row.tolist() == rows[1:]
    assert [context.keys[i] for i in context.stream] == [KEY, OTHER, KEY]
    assert context.seq.tolist() == [1, 5, 2]
    assert context.t_ns.tolist() == [1_000, 5_000, 2_000]
    assert context.y.tolist() == [0, 2, -1]
    assert context.x.shape == (3, *SHAPE)
    assert all(
        same_bits(x, samples(seq)) for x, seq in zip(context.x, context.seq.tolist(), strict=True)
    )
    assert context.ends() == {KEY: 3, OTHER: 6}


def test_context_begins_where_it_is_told(store: Store) -> None:
    add_predicted(store, *range(6))
    add_predicted(store, *range(6), key=OTHER)
    store.add_labels([label(seq, seq % 3) for seq in (1, 3, 4)])
    assert store.context({KEY: 4}, 10).seq.tolist() == [4, 5]
    assert store.context({KEY: 2}, 10, labelled=True).seq.tolist() == [3, 4]
    assert store.count_labels({KEY: 2}).tolist() == [1, 1, 0]
    assert store.count_labels({KEY: 0, ("no", "one"): 0}).tolist() == [1, 2, 0]


def test_a_context_of_nothing(store: Store) -> None:
    context = store.context({("no", "one"): 3}, 10)
    assert len(context) == 0
    assert context.x.shape == (0, *SHAPE)
    assert context.ends() == {("no", "one"): 3}
    assert not (context.version == "v1").any()


# bytes written


def test_bytes_written_are_what_the_kernel_counts_and_the_rate_is_of_a_day(reopen: Reopen) -> None:
    now_s = 100.0
    store = reopen(clock_s=lambda: now_s)
    add(store, *range(64))
    written = store.bytes_written
    if written is None:
        pytest.skip("this kernel does not count what a thread writes")
    assert store.bytes_written_per_day() is None, "too early to tell"
    now_s += 3600.0
    assert store.bytes_written_per_day() == written * 24
