from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt import job as jobs  # noqa: E402
from edgetuner.adapt.answers import Answers  # noqa: E402
from edgetuner.adapt.division import divided  # noqa: E402
from edgetuner.config import AdaptConfig  # noqa: E402
from edgetuner.corrections import Correction  # noqa: E402
from edgetuner.pipeline import Pipeline  # noqa: E402
from tests import waves  # noqa: E402
from tests.adapt.material import KEY, seen  # noqa: E402


async def test_the_newest_labels_judge_what_the_others_train(pipeline: Pipeline) -> None:
    await seen(pipeline, range(48))
    context = await pipeline.context({KEY: 0}, 100)
    settings = AdaptConfig(min_labels=48, holdout=0.25)
    windows, guesses = await divided(
        context, settings, pipeline.version, Answers(pipeline), with_labels=False
    )
    assert guesses is None
    assert windows.y is context.y and windows.x is context.x
    held, trained = (np.flatnonzero(windows.split == part) for part in (jobs.HOLDOUT, jobs.TRAIN))
    assert len(held) == 12 and len(trained) == 36
    for k in range(3):
        mine = np.flatnonzero(windows.y == k)
        assert set(mine[-4:]) <= set(held), "of each class the newest"


async def test_beside_labels_what_was_served_with_them_is_what_to_beat(pipeline: Pipeline) -> None:
    await seen(pipeline, range(48))
    context, settings = await pipeline.context({KEY: 0}, 100), AdaptConfig(min_labels=48)
    said = np.tile([0.0, 0.0, 9.0], (48, 1))
    pipeline._corrections.note(context.row.tolist(), Correction(np.ones(48), said))
    context.served[:] = 2
    told = []
    for with_labels in (True, False):
        answers = Answers(pipeline)
        windows, _ = await divided(
            context, settings, pipeline.version, answers, with_labels=with_labels
        )
        told.append(set(windows.held_served().tolist()))
    assert told == [{2}, {0, 1, 2}]


async def test_where_labels_are_too_few_to_train_on_they_judge_and_guesses_are_trained_on(
    pipeline: Pipeline,
) -> None:
    await seen(pipeline, range(60), labelled=False)
    await seen(pipeline, range(60, 72))
    context = await pipeline.context({KEY: 0}, 100)
    settings = AdaptConfig(min_labels=13)
    windows, guesses = await divided(
        context, settings, pipeline.version, Answers(pipeline), with_labels=False
    )
    given = context.y >= 0
    assert (windows.y[given] == context.y[given]).all()
    assert (windows.split[given] == jobs.HOLDOUT).all()
    guessed = (windows.y >= 0) & ~given
    assert guesses == guessed.sum() >= 20
    assert (windows.split[guessed] == jobs.TRAIN).all()
    true = np.array([waves.label_of(n) for n in context.seq])
    assert (windows.y == true)[guessed].all(), "the model knows these"
    assert (context.y[~given] == -1).all(), "the context itself stays as it is"


async def test_windows_that_share_samples_with_a_judge_train_nothing(pipeline: Pipeline) -> None:
    await seen(pipeline, range(48))
    context = await pipeline.context({KEY: 0}, 100)
    context.t_ns[:] = np.arange(48) * pipeline.version.manifest.window_ns // 2
    settings = AdaptConfig(min_labels=10, holdout=0.25)
    windows, _ = await divided(
        context, settings, pipeline.version, Answers(pipeline), with_labels=False
    )
    held = windows.t_ns[windows.split == jobs.HOLDOUT]
    trained = windows.t_ns[windows.split == jobs.TRAIN]
    assert (windows.split == jobs.NEITHER).any()
    apart = np.abs(trained[:, None] - held[None, :]).min()
    assert apart >= pipeline.version.manifest.window_ns
