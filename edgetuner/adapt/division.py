"""The windows of a job: which of a context are trained on, and which ones judge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgetuner.adapt.answers import Answers
from edgetuner.adapt.guess import guessed
from edgetuner.adapt.job import HOLDOUT, Windows, hold_out, split
from edgetuner.config import AdaptConfig
from edgetuner.inference import ModelVersion
from edgetuner.store import Context


class Division(NamedTuple):
    """A context, divided.

    Attributes:
        windows: all of them, each with its split.
        guessed: guesses among their labels; None where labels alone are trained on.
    """

    windows: Windows
    guessed: int | None


async def divided(
    context: Context,
    settings: AdaptConfig,
    live: ModelVersion,
    answers: Answers,
    *,
    with_labels: bool,
) -> Division:
    """Divides a context that was admitted.

    Where it has too few labels to train on, all of them judge, and guesses are trained on.

    Args:
        context: N windows.
        settings: say how many labels are enough, and which share of them judges.
        live: the live version, which guesses.
        answers: what it says of windows.
        with_labels: whether what is trained is held against what was served with the help of
            labels. It is held against it by itself: what does not keep up with labels that way is
            not worth more training, nor detectors, as long as they come.
    """
    labelled, guesses = context.y >= 0, None
    window_ns = live.manifest.window_ns
    if labelled.sum() < settings.min_labels:  # admitted to self-training
        context = await guessed(context, live, answers)
        guesses = int((context.y[~labelled] >= 0).sum())
        parts = hold_out(labelled, context.stream, context.t_ns, window_ns=window_ns)
    else:
        parts = split(
            context.y,
            context.stream,
            context.t_ns,
            share=settings.holdout,
            window_ns=window_ns,
        )
    judging = labelled & (parts == HOLDOUT)
    served = np.full(len(context), -1, np.int64)
    judges = context.take(judging)
    served[judging] = await (answers.served if with_labels else answers.on_record)(judges)
    windows = Windows(context.x, context.y, context.stream, context.t_ns, parts, served)
    return Division(windows, guesses)
