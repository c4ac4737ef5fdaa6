"""The rungs of the ladder: a file and a line of the table each."""

from __future__ import annotations

from collections.abc import Callable

from edgetuner.adapt.material import Material
from edgetuner.adapt.rungs.cores import cores
from edgetuner.adapt.rungs.head import head
from edgetuner.adapt.rungs.reached import Reached, Report
from edgetuner.adapt.rungs.statistics import statistics
from edgetuner.adapt.rungs.unlabelled import unlabelled
from edgetuner.config import AdaptConfig

Rung = Callable[[Reached, Material, AdaptConfig, Report], Reached]

RUNGS: dict[str, Rung] = {
    "head": head,
    "unlabelled": unlabelled,
    "statistics": statistics,
    "cores": cores,
}
