from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt import observations as module  # noqa: E402
from edgetuner.adapt.faults import Faults  # noqa: E402
from edgetuner.adapt.observations import Labels, Observations  # noqa: E402
from edgetuner.drift.monitor import Finding, StreamKey  # noqa: E402
from edgetuner.pipeline import Pipeline  # noqa: E402
from tests.adapt.material import KEY, seen  # noqa: E402

OTHER = ("c", "other")


def broken(first: int, end: int) -> Faults:
    """The sensor of the first stream was faulty for these windows."""
    faults, key = Faults(), StreamKey(*KEY)
    faults.note(Finding("sensor_fault", "flat_line", key, first + 2, first))
    faults.note(Finding("sensor_ok", "flat_line", key, end + 2, end))
    return faults


async def test_the_present_of_each_stream_begins_where_it_drifted_last(pipeline: Pipeline) -> None:
    await seen(pipeline, range(12))
    await seen(pipeline, range(3), key=OTHER)
    observations = Observations(pipeline, Faults())
    assert await observations.starts() == {KEY: 0, OTHER: 0}
    pipeline._monitor._streams[StreamKey(*KEY)].context_start = 7
    assert await observations.starts() == {KEY: 7, OTHER: 0}


async def test_labels_are_counted_from_a_window_on(pipeline: Pipeline) -> None:
    await seen(pipeline, range(10))
    await seen(pipeline, range(10, 14), labelled=False)
    observations = Observations(pipeline, Faults())
    assert await observations.labels({KEY: 0}) == Labels(windows=10, classes=3)
    assert await observations.labels({KEY: 4}) == Labels(windows=6, classes=2)
    assert await observations.labels({KEY: 10}) == Labels(windows=0, classes=0)
    assert await observations.labels({}) == Labels(windows=0, classes=0)
    context = await observations.windows({KEY: 4}, 100)
    assert len(context) == 10 and Labels.of(context) == Labels(windows=6, classes=2)


async def test_windows_of_a_faulty_sensor_are_not_handed_out(pipeline: Pipeline) -> None:
    await seen(pipeline, range(150))
    await seen(pipeline, range(12), key=OTHER, labelled=False)
    observations = Observations(pipeline, broken(70, 80))
    starts = {KEY: 0, OTHER: 0}
    sound = [*range(10), *range(140, 150)]  # sixty before it and sixty after it are not
    context = await observations.windows(starts, 200)
    mine = np.array([context.keys[index] == KEY for index in context.stream])
    assert context.seq[mine].tolist() == sound
    assert context.seq[~mine].tolist() == list(range(12)), "the other one was sound"
    assert (await observations.labelled(starts)).seq.tolist() == sound


async def test_the_newest_windows_are_handed_out(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seen(pipeline, range(10))
    await seen(pipeline, range(10, 12), labelled=False)
    observations = Observations(pipeline, Faults())
    assert (await observations.windows({KEY: 2}, 4)).seq.tolist() == [8, 9, 10, 11]
    assert (await observations.labelled({KEY: 2})).seq.tolist() == list(range(2, 10))
    monkeypatch.setattr(module, "_NEWEST", 3)
    assert (await observations.labelled({KEY: 2})).seq.tolist() == [7, 8, 9]
