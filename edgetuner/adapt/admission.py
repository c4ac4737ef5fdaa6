"""Admission: may an adaptation begin now? If not, the reason says what would unblock it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from edgetuner.config import Config
from edgetuner.telemetry import Sample

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Situation:
    """What admission depends on.

    Attributes:
        labels: labelled windows of the present context.
        classes: different labels among them.
        known: classes of the model.
        faults: streams whose sensor is faulty now, as client/stream.
        board: the latest reading, or None.
        spent_j: joules that training used in the last 24 hours.
        wait_s: seconds until the cool-down is over; negative if it is.
    """

    labels: int
    classes: int
    known: int
    faults: list[str]
    board: Sample | None
    spent_j: float
    wait_s: float


def hindrance(situation: Situation) -> str | None:
    """Why the live version may not be replaced at all now, in words; None if it may."""
    if situation.wait_s > 0:
        return f"cool-down after the last adaptation, {ceil(situation.wait_s)} s left"
    if situation.faults:
        return f"sensor fault on {', '.join(situation.faults)}: repair it first"
    return None


def refusal(situation: Situation, config: Config) -> str | None:
    """Why nothing may be trained now, in words; None if it may.

    What the board does not report cannot refuse anything: a laptop has no trip points.
    """
    adapt = config.adapt
    reason = hindrance(situation)
    if reason is not None:
        return reason
    needed = adapt.min_labels
    if adapt.self_train:  # the labels only judge
        needed = min(needed, config.gate.min_windows)
    if situation.labels < needed:
        return f"{situation.labels} labelled windows in this context, {needed} are needed"
    classes = max(adapt.min_classes, ceil(adapt.min_class_share * situation.known))
    if situation.classes < classes:
        return f"labels of {situation.classes} classes, {classes} are needed"
    board = situation.board
    if board is not None and board.memory_available_bytes is not None:
        free, needed = (
            board.memory_available_bytes // _MB,
            adapt.memory_budget_mb + adapt.min_available_mb,
        )
        if free < needed:
            return f"{free} MB of memory free, {needed} MB are needed"
    if board is not None and board.temperature_c:
        zone, hottest = max(board.temperature_c.items(), key=lambda item: item[1])
        if hottest > adapt.max_temperature_c:
            return f"{zone} at {hottest:.0f} C, at most {adapt.max_temperature_c:.0f} C"
    budget = adapt.energy_budget_j_per_day
    if budget is not None and situation.spent_j >= budget:
        return f"{situation.spent_j:.0f} J used for training in 24 hours, at most {budget:.0f} J"
    return None
