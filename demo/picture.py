"""Rolling F1 over the demo, with drift, training and swap marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from demo.screen import RECENT, rolling_f1
from demo.service import Event
from edgetuner.simulate import Outcome

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_MARKS = {
    "event.drift": ("drift detected", "#d08700", "--"),
    "event.adaptation_started": ("training begins", "#7a3db8", ":"),
    "event.refused": ("candidate refused", "#8a8a85", ":"),
    "event.swap": ("swapped in", "#1a8f3c", "-"),
    "event.rollback": ("rolled back", "#c0241c", "-"),
}


def draw(outcome: Outcome, classes: Sequence[str], events: Sequence[Event], path: Path) -> None:
    """Writes the picture to `path`."""
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    points = rolling_f1(outcome.sent, classes)
    axes.plot([x for x, _ in points], [f1 for _, f1 in points], color="#1f5fa8", lw=1.8)
    moved = next((sent.order for sent in outcome.sent if sent.phase == 1), None)
    if moved is not None:
        axes.axvspan(moved, len(outcome.sent), color="#f1f1ee", zorder=0)
        for x, name in ((0, "right wrist"), (moved, "left wrist")):
            axes.text(x + 5, 0.03, name, color="#555", backgroundcolor="white")
    named = set()
    for event in events:
        if event.topic in _MARKS:
            name, colour, style = _MARKS[event.topic]
            axes.axvline(
                _order_at(outcome, event),
                color=colour,
                ls=style,
                lw=1.3,
                label=None if name in named else name,
            )
            named.add(name)
    axes.set(
        xlim=(0, max(1, len(outcome.sent))),
        ylim=(0, 1.02),
        xlabel="windows sent, both people",
        ylabel=f"macro-F1 of the last {RECENT} windows",
        title="The watch moves to the other wrist, and the service follows",
    )
    axes.grid(alpha=0.25)
    if named:
        axes.legend(loc="lower right", framealpha=0.95)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _order_at(outcome: Outcome, event: Event) -> int:
    """How many windows had been sent when the event came."""
    return sum(sent.t <= event.t for sent in outcome.sent)
