from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from edgetuner.errors import DriftError
from edgetuner.inference import Outputs
from edgetuner.label_cache import LabelCache

KEY, OTHER = ("c", "s"), ("c", "t")
EVEN = np.array([[0.5, 0.3, 0.2]])


def anchor(name: str = "source", ordinary: float = 0.0, finite: bool = True) -> Any:
    """A version to which embeddings are places already."""

    def told(embedding: Any, *_: Any) -> Any:
        if not finite:
            raise DriftError("not finite")
        return np.full(len(embedding), ordinary)

    reference = SimpleNamespace(places=lambda embedding: embedding, ordinary=told)
    return SimpleNamespace(id=name, reference=reference)


def at(*places: float) -> Outputs:
    """Windows whose embeddings are (place, 0)."""
    embeddings = np.array([[place, 0.0] for place in places], np.float32)
    none = np.zeros(len(places))
    return Outputs(none.astype(np.int64), none, none[:, None], embeddings)


def heard(*said: tuple[float, int, int], version: Any = None, key: Any = KEY) -> LabelCache:
    """A cache that has heard (place, seq, label)."""
    cache = LabelCache()
    tell(cache, *said, version=version, key=key)
    return cache


def tell(
    cache: LabelCache, *said: tuple[float, int, int], version: Any = None, key: Any = KEY
) -> None:
    """Windows come every five seconds."""
    places, seqs, labels = zip(*said, strict=True)
    times = [5 * 10**9 * seq for seq in seqs]
    cache.hear(version or anchor(), at(*places), [key] * len(said), seqs, times, labels)


def corrected(cache: LabelCache, place: float, seq: int, version: Any = None) -> Any:
    found = cache.correction(version or anchor(), at(place), [KEY], [5 * 10**9 * seq], 3)
    return EVEN[0] if found is None else found.of(EVEN)[0]


def test_labels_count_by_nearness_and_age_beside_the_models_own_word() -> None:
    cache = heard((0.0, 10, 2), (0.5, 14, 1))
    for ordinary in (0.0, 0.25, 1.0):
        weights = (0.3 + 3 * ordinary) * EVEN[0]
        weights[2] += math.exp(-((0.1 / 0.6) ** 2) / 2 - 50 / 300)
        weights[1] += math.exp(-((0.4 / 0.6) ** 2) / 2 - 30 / 300)
        found = corrected(cache, 0.1, 20, anchor(ordinary=ordinary))
        assert found == pytest.approx(weights / weights.sum(), abs=1e-6)


def test_many_labels_count_as_two() -> None:
    cache = heard(*((0.0, seq, 2) for seq in range(20)), *((0.0, seq, 1) for seq in range(20, 50)))
    for ordinary in (0.0, 1.0):
        weights = (0.3 + 3 * ordinary) * EVEN[0]
        votes = np.exp(-5 * (50 - np.arange(50)) / 300)
        weights += 2 * np.array([0, votes[20:].sum(), votes[:20].sum()]) / votes.sum()
        found = corrected(cache, 0.0, 50, anchor(ordinary=ordinary))
        assert found == pytest.approx(weights / weights.sum(), abs=1e-6)


def test_who_is_right_where_they_differ_is_told_by_labels() -> None:
    """Versions that have learned to tell apart what is alike to the anchor are not overruled."""
    cache, sure = heard((0.0, 10, 2)), np.array([[0.9, 0.05, 0.05]])

    def told(label: int, count: int = 1) -> Any:
        for _ in range(count):
            cache.weigh(anchor(), at(0.0), [KEY], [55 * 10**9], [label], sure)
        found = cache.correction(anchor(), at(0.0), [KEY], [55 * 10**9], 3)
        assert found is not None
        return found.of(sure)[0]

    first = told(2, 0)
    assert first.argmax() == 2
    assert told(0, 8).argmax() == 0, "the versions were right"
    assert told(2, 8)[2] > first[2], "and now they are not"
    cache.doubt()
    assert told(2, 0)[2] < first[2], "others answer"
    unheard = LabelCache()
    unheard.weigh(anchor(), at(0.0), [KEY], [0], [1], sure)
    assert unheard.correction(anchor(), at(0.0), [KEY], [0], 3) is None


def test_one_label_decides_where_the_window_is_strange_and_none_where_it_is_ordinary() -> None:
    cache = heard((0.0, 10, 2))
    assert corrected(cache, 0.0, 11, anchor(ordinary=0.0)).argmax() == 2
    assert corrected(cache, 0.0, 11, anchor(ordinary=1.0)).argmax() == 0


@pytest.mark.parametrize(("place", "seq"), [(4.0, 11), (0.0, 1000)])
def test_what_is_unlike_or_long_past_says_nothing(place: float, seq: int) -> None:
    assert corrected(heard((0.0, 10, 2)), place, seq) == pytest.approx(EVEN[0], abs=1e-6)


def test_without_a_label_of_its_stream_a_window_is_left_as_it_is() -> None:
    assert LabelCache().correction(anchor(), at(0.0), [KEY], [0], 3) is None
    of_another = heard((0.0, 10, 2), key=OTHER)
    assert of_another.correction(anchor(), at(0.0), [KEY], [11], 3) is None
    found = of_another.correction(anchor(), at(0.0, 0.0), [KEY, OTHER], [11, 11], 3)
    assert found is not None
    both = found.of(np.repeat(EVEN, 2, axis=0))
    assert both[0] == pytest.approx(EVEN[0]) and both[1].argmax() == 2


def test_the_latest_label_of_a_window_counts_and_only_once() -> None:
    cache = heard((0.0, 10, 1), (0.0, 10, 2), (0.0, 10, 2))
    assert corrected(cache, 0.0, 10) == pytest.approx(corrected(heard((0.0, 10, 2)), 0.0, 10))


def test_labels_of_the_newest_windows_are_kept_whenever_they_were_heard() -> None:
    cache = heard(*((0.0, seq, 2) for seq in range(500, 520)))
    corrected(cache, 0.0, 519)
    tell(cache, *((0.0, seq, 1) for seq in range(150)))
    assert corrected(cache, 0.0, 520).argmax() == 2


def test_a_pruned_window_can_still_be_labelled_anew() -> None:
    cache = heard((0.0, 10, 1), (9.0, 11, 1))
    cache.relabel(KEY, 10, 2)
    cache.relabel(KEY, 99, 0)
    cache.relabel(OTHER, 10, 0)
    assert corrected(cache, 0.0, 12).argmax() == 2


def test_it_wants_no_label_that_can_say_nothing_any_more() -> None:
    cache, second = LabelCache(), 10**9
    assert cache.wants(KEY, 0), "who knows when"
    cache.correction(anchor(), at(0.0, 0.0), [KEY, KEY], [9000 * second, 8000 * second], 3)
    assert cache.wants(KEY, 6500 * second) and not cache.wants(KEY, 6499 * second)
    assert cache.wants(OTHER, 0)


def test_it_speaks_on_a_stream_for_five_minutes_after_the_window_of_the_latest_label() -> None:
    cache = heard((0.0, 100, 2), (0.0, 90, 1))
    assert not cache.speaks(KEY), "nobody knows how old they are before a window comes"
    for seq, speaks in ((110, True), (159, True), (160, False)):
        corrected(cache, 0.0, seq)
        assert cache.speaks(KEY) == speaks
    tell(cache, (0.0, 101, 1))
    assert cache.speaks(KEY)


@pytest.mark.parametrize("back", [60, 137, 1100])
def test_a_clock_that_is_set_back_makes_nobody_deaf(back: int) -> None:
    cache = heard(*((0.0, seq, 2) for seq in range(1000, 1140)))
    corrected(cache, 0.0, 1140)
    assert cache.wants(KEY, 5 * 10**9 * 1100) and not cache.wants(KEY, 5 * 10**9 * 2700)
    for seq in range(1140 - back, 1140 - back + 128):
        corrected(cache, 0.0, seq)
        assert cache.wants(KEY, 5 * 10**9 * seq)
        cache.hear(anchor(), at(0.0), [KEY], [10_000 + seq], [5 * 10**9 * seq], [1])
    assert corrected(cache, 0.0, 1140 - back + 128).argmax() == 1, "128 new labels are all there is"
    assert cache.speaks(KEY)


def test_a_late_window_makes_nobody_forget() -> None:
    cache = heard((0.0, 1000, 2))
    corrected(cache, 0.0, 1001)
    corrected(cache, 0.0, 200)
    assert cache.wants(KEY, 5 * 10**9 * 1000)
    assert corrected(cache, 0.0, 1002).argmax() == 2


def test_hearing_nothing_changes_nothing() -> None:
    cache = heard((0.0, 10, 2))
    cache.hear(anchor("other"), at(), [], [], [], [])
    assert corrected(cache, 0.0, 11).argmax() == 2


def test_embeddings_of_another_version_begin_anew() -> None:
    cache = heard((0.0, 10, 2))
    other = anchor("other")
    assert cache.correction(other, at(0.0), [KEY], [11], 3) is None
    assert corrected(cache, 0.0, 11).argmax() == 2, "asking changes nothing"
    tell(cache, (9.0, 11, 1), version=other)
    assert cache.correction(anchor(), at(0.0), [KEY], [12], 3) is None


def test_a_version_with_another_reference_than_embeddings_has_no_places() -> None:
    odd = anchor("odd")

    def wrong(_: Any) -> Any:
        raise DriftError("wrong width")

    odd.reference.places = wrong
    cache = heard((0.0, 10, 2))
    tell(cache, (0.0, 11, 1), version=odd)
    assert cache.correction(odd, at(0.0), [KEY], [0], 3) is None
    assert corrected(cache, 0.0, 11).argmax() == 2


def test_what_is_not_finite_has_no_place() -> None:
    assert corrected(heard((0.0, 1, 2), (math.nan, 2, 1)), 0.0, 3).argmax() == 2
    cache = heard((0.0, 1, 2))
    assert cache.correction(anchor(finite=False), at(math.inf), [KEY], [3], 3) is None


def test_it_is_bounded() -> None:
    cache = heard(*((0.0, seq, 1) for seq in range(128)))
    tell(cache, *((0.0, seq, 2) for seq in range(128, 256)))
    assert corrected(cache, 0.0, 256)[2] > 0.85, "the newest ones of a stream"
    for n in range(256):
        tell(cache, (0.0, 0, 1), key=("c", str(n)))
    assert cache.correction(anchor(), at(0.0), [KEY], [128], 3) is None, "the latest streams"


def test_a_copy_goes_its_own_way() -> None:
    cache = heard((0.0, 10, 2))
    twin = cache.copy()
    tell(twin, (0.0, 10, 1))
    assert corrected(cache, 0.0, 11).argmax() == 2 and corrected(twin, 0.0, 11).argmax() == 1


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 200), st.integers(0, 2)), min_size=1),
    st.floats(-3, 3),
    st.integers(0, 200),
    st.floats(0, 1),
)
def test_probabilities_stay_such_and_a_label_never_speaks_against_itself(
    said: list[tuple[float, int, int]], place: float, seq: int, ordinary: float
) -> None:
    version = anchor(ordinary=ordinary)
    cache = heard(*said)
    before = corrected(cache, place, seq, version)
    assert before.sum() == pytest.approx(1) and (before >= 0).all()
    new = max(number for _, number, _ in said) + 1
    tell(cache, (place, new, 1), version=version)
    if len(said) < 128:
        assert corrected(cache, place, seq, version)[1] >= before[1] - 1e-9
