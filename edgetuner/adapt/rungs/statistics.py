"""Batch-norm statistics of the present context, from windows without labels."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from edgetuner.adapt.material import Material
from edgetuner.adapt.rungs.head import CHUNK, spread, with_head
from edgetuner.adapt.rungs.reached import Reached, Report
from edgetuner.config import AdaptConfig
from edgetuner.peft.statistics import reestimate

_WINDOWS = 512  # more do not move a mean; spread over the whole context


def statistics(
    start: Reached, material: Material, settings: AdaptConfig, report: Report
) -> Reached:
    """New statistics and a head solved on what they make of the windows.

    A few activities of one person can mislead as well as help, so this is a candidate like any
    other: what a head on it says of windows left out decides.
    """
    adapted = copy.deepcopy(start.module)
    windows = spread(material.unlabelled, _WINDOWS)
    parts = torch.tensor_split(
        windows, max(1, -(-len(windows) // CHUNK))
    )  # none of them much smaller
    buffers = reestimate(start.module, parts)
    adapted.load_state_dict(buffers, strict=False)
    reached = with_head(adapted.eval(), material, settings)
    facts: dict[str, Any] = {
        "windows": len(windows),
        "buffers": sum(map(torch.numel, buffers.values())),
    }
    return replace(reached, facts=reached.facts | facts)
