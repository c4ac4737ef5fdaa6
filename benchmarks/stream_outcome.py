"""What the rows of a stream benchmark come to: numbers, tables, a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

OURS = "edgetuner"
COSTLY = 0.05  # macro-F1 that a new person has to cost for his coming to be a drift
Row = dict[str, Any]
NAMES = {
    "never": "never",
    "labels": "label cache, no training",
    "periodic": "full fine-tuning, periodic",
    "statistics": "statistics on drift",
    "full": "full fine-tuning on drift",
    "edgetuner": "**edgetuner**",
}
_COLOURS = {
    "never": "#a8a8a2",
    "labels": "#9a6fb0",
    "periodic": "#c58b2a",
    "statistics": "#7a9e5f",
    "full": "#3d3d3a",
    "edgetuner": "#1f5fa8",
}
_MARKS = {"drift": "v", "swap": "o", "rollback": "x", "refused": "s"}
_CONDITIONS = """\
- Streams are made of bouts of one activity, two seconds to twenty minutes, log-uniform. "At home"
  are the people that the model was trained on, later: of each of their recordings the first part
  trains, the next one calibrates the detectors, the last one is played. Streams without labels
  play recordings again and again, back and forth where a bout outlasts its recording; in streams
  that are adapted to no window comes twice, so there a bout ends with its recording at the latest.
- Every fourth window gets a label, half a minute later. All policies see the same windows, eight
  at a time, the same labels and the same detectors, calibrated for one false alarm in 50,000
  windows; after a training as many windows go by as came in its seconds. Full fine-tuning takes
  50 steps of 64 windows at the learning rate that `benchmarks.accuracy` chose, needs 40 labels of
  2 classes as the service does, and has no gate.
- macro-F1 is that of the latest 200 windows, none from before the latest change, over the classes
  among them, without those of a broken sensor; *area*: its mean from the first change on. A swap
  is *harmful* if who answers from it on is more than 2 points below who answered before, as he
  would have gone on with the labels that came, on the 200 windows after it (at least 100, where the
  stream ends), by the truth that no policy sees.
- *Label cache, no training* is edgetuner with nothing but its label cache: what training adds is
  the difference.
- *Training* is what the learner took, *adapting* that and the calibration of the detectors.
  Start-up of a process counts for nobody."""


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures that were measured, and no others; a delay is None where most noticed nothing."""
    found: dict[str, Any] = {}
    ratios = false_alarm_ratios(rows)
    if ratios:
        found["false_alarm_ratio"] = ratios
    for change in ("position", "person"):
        delays = delays_of(rows, change)
        if delays:
            found[f"delay_{change}_median"] = _finite(median(delays))
    costs = [
        row["detector_cost_ratio"]
        for row in rows
        if row["kind"] == "cost" and row["backbone"] == "small_cnn"
    ]
    if costs:
        found["detector_cost_ratio"] = max(costs)
    runs = [row for row in rows if row["kind"] == "run"]
    return found | (_runs(runs) if runs else {})


def false_alarm_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Measured over asked time between false alarms: of all streams of a kind together, and of
    the middle one of them, since one strange recording that is played again and again alarms every
    time.
    """
    found: dict[str, float] = {}
    own = [row for row in rows if row["kind"] == "false_alarms" and row["detector"] == "ours"]
    for name in dict.fromkeys(_kind_of_stream(row) for row in own):
        mine = [row for row in own if _kind_of_stream(row) == name]
        count, asked = sum(row["alarms"] for row in mine), mine[0]["asked"]
        if count:
            found[name] = sum(row["windows"] for row in mine) / count / asked
        each = [
            row["windows"] / len(row["alarms_by_stream"]) / asked / alarms if alarms else math.inf
            for row in mine
            for alarms in row["alarms_by_stream"]
        ]
        if math.isfinite(median(each)):
            found[f"{name}, middle stream"] = median(each)
    return found


def delays_of(rows: Sequence[Row], change: str, detector: str = "ours") -> list[float]:
    """Of every stream, infinite where nothing was noticed; people who cost little are left out."""
    return [
        math.inf if row["delay"] is None else float(row["delay"])
        for row in rows
        if row["kind"] == "delay"
        and row["detector"] == detector
        and row["change"] == change
        and "delay" in row
        and (change == "position" or row["f1_home"] - row["f1_away"] > COSTLY)
    ]


def areas(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Area under F1 by scenario and policy, the mean over data sets and seeds."""
    scenarios = dict.fromkeys(row["scenario"] for row in rows)
    return {
        scenario: {
            policy: mean(found)
            for policy in dict.fromkeys(row["policy"] for row in rows)
            if (
                found := [
                    row["auc"]
                    for row in rows
                    if (row["scenario"], row["policy"]) == (scenario, policy)
                ]
            )
        }
        for scenario in scenarios
    }


def _runs(runs: Sequence[Row]) -> dict[str, Any]:
    ours = [row for row in runs if row["policy"] == OURS]
    broken = [row for row in ours if "faults" in row]
    found: dict[str, Any] = {}
    if broken:
        named, happened = (sum(r[k] for r in broken) for k in ("faults_in_time", "faults"))
        found["faults_named"] = named / happened
        found["faults_trained_on"] = sum(row["faults_trained_on"] for row in broken)
    if ours:
        found["harmful_swaps"] = sum(row["harmful_swaps"] for row in ours)
    found["auc_by_policy"] = areas(runs)
    for key in ("train_seconds", "adapt_seconds"):
        found[f"{key}_by_policy"] = {
            policy: sum(row[key] for row in runs if row["policy"] == policy)
            for policy in dict.fromkeys(row["policy"] for row in runs)
        }
    return found


def page(rows: Sequence[Row]) -> str:
    """Markdown: under what conditions, and what came of it."""
    runs = [row for row in rows if row["kind"] == "run"]
    parts = [
        "# What drift costs, and who notices it when",
        "",
        "Made by `.venv/bin/python -m benchmarks.stream`; do not edit.",
        "",
        _CONDITIONS,
        "",
        *_false_alarm_table(rows),
        *_delay_table(rows),
        *dict.fromkeys(f"Not compared: {r['why']}.\n" for r in rows if r["kind"] == "absent"),
        *_cost_line(rows),
    ]
    if runs:
        parts += [*_area_table(runs), *_policy_table(runs), *_own_table(runs)]
    return "\n".join([*parts, *_live_lines(rows)]).rstrip() + "\n"


def _false_alarm_table(rows: Sequence[Row]) -> list[str]:
    own = [row for row in rows if row["kind"] == "false_alarms"]
    if not own:
        return []
    lines = [
        "## False alarms where nothing changes",
        "",
        "Every alarm is answered at once by `acknowledge`, from which the detectors learn. "
        "*Ratio*: measured over asked windows between two of them; 1 is right, below it there are "
        "too many.",
        "",
        "| detector | streams | asked | windows | alarms | per million | ratio | by stream |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in own:
        where = ", ".join(str(row[k]) for k in ("stream", "dataset", "backbone") if k in row)
        asked = f"{row['asked']:,.0f}" if "asked" in row else ""
        by_stream = row["alarms_by_stream"] if len(row["alarms_by_stream"]) < 13 else []
        lines.append(
            f"| {row['detector']} | {where} | {asked} | {row['windows']:,} | "
            f"{row['alarms']} | {row['per_million']:.0f} | {_cell(row.get('ratio'))} | "
            f"{', '.join(map(str, by_stream))} |"
        )
    return [*lines, ""]


def _delay_table(rows: Sequence[Row]) -> list[str]:
    delays = [row for row in rows if row["kind"] == "delay"]
    if not delays:
        return []
    lines = [
        "## Windows until a change is noticed, without labels",
        "",
        "| detector | change | backbone | F1 before, after | median | 9 of 10 | never "
        "| alarm before |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for detector, dataset, shift, backbone in dict.fromkeys(
        (row["detector"], row["dataset"], row["shift"], row["backbone"]) for row in delays
    ):
        mine = [
            row
            for row in delays
            if (row["detector"], row["dataset"], row["shift"], row["backbone"])
            == (detector, dataset, shift, backbone)
        ]
        known = [row["delay"] for row in mine if "delay" in row]
        found = [math.inf if delay is None else delay for delay in known]
        middle = median(found) if found else None
        late = float(np.quantile(found, 0.9, method="higher")) if found else None
        lines.append(
            f"| {detector} | {dataset}: {shift} | {backbone} | "
            f"{mean(row['f1_home'] for row in mine):.2f}, "
            f"{mean(row['f1_away'] for row in mine):.2f} | {_windows(middle)} | {_windows(late)} | "
            f"{sum(delay is None for delay in known)} of {len(known)} | "
            f"{sum(_cried_before(row) for row in mine)} of {len(mine)} |"
        )
    return [*lines, ""]


def _cried_before(row: Row) -> bool:
    return "delay" not in row or row.get("alarms_before", 0) > 0


def _cost_line(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"- {row['dataset']}, {row['backbone']}: {row['detectors_us']:.0f} us of all detectors for "
        f"a window, {row['inference_us']:.0f} us of inference: "
        f"{100 * row['detector_cost_ratio']:.0f} %"
        for row in rows
        if row["kind"] == "cost"
    ]
    return ["## What watching costs, one window at a time", "", *lines, ""] if lines else []


def _area_table(runs: Sequence[Row]) -> list[str]:
    policies = list(dict.fromkeys(row["policy"] for row in runs))
    lines = [
        "## Area under prequential macro-F1",
        "",
        f"| scenario | streams | {' | '.join(NAMES.get(p, p) for p in policies)} |",
        f"|---|---|{'---|' * len(policies)}",
    ]
    for scenario, found in areas(runs).items():
        streams = sum(row["scenario"] == scenario and row["policy"] == policies[0] for row in runs)
        best = max(found.values())
        cells = [
            (f"**{found[p]:.3f}**" if found[p] == best else f"{found[p]:.3f}") if p in found else ""
            for p in policies
        ]
        lines.append(f"| {scenario} | {streams} | {' | '.join(cells)} |")
    return [*lines, ""]


def _policy_table(runs: Sequence[Row]) -> list[str]:
    lines = [
        "| policy | trainings | swaps | harmful, of those judged | rollbacks | training s "
        "| adapting s | energy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy in dict.fromkeys(row["policy"] for row in runs):
        own = [row for row in runs if row["policy"] == policy]
        total = {
            key: sum(row[key] for row in own)
            for key in (
                *("trainings", "swaps", "harmful_swaps", "swaps_judged", "rollbacks"),
                *("train_seconds", "adapt_seconds"),
            )
        }
        energies = [row["energy_j"] for row in own if "energy_j" in row]
        energy = f"{sum(energies):.0f} J" if energies else "no rail to read"
        lines.append(
            f"| {NAMES.get(policy, policy)} | {total['trainings']} | {total['swaps']} | "
            f"{total['harmful_swaps']} of {total['swaps_judged']} | {total['rollbacks']} | "
            f"{total['train_seconds']:.1f} | {total['adapt_seconds']:.1f} | {energy} |"
        )
    return [*lines, ""]


def _own_table(runs: Sequence[Row]) -> list[str]:
    """What the service did on each stream."""
    own = [row for row in runs if row["policy"] == OURS]
    if not own:
        return []
    lines = [
        "## What edgetuner did",
        "",
        "| stream | noticed after | swaps (harm in points) | refused | rollbacks | recovered after "
        "| sensor |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in own:
        harms = ", ".join(
            f"{at}: {'not judged' if lost is None else f'{100 * lost:+.0f}'}"
            for at, lost in row["harms"]
        )
        sensor = (
            f"{row['faults_in_time']} of {row['faults']} named in time, "
            f"{row['faults_trained_on']} windows trained on"
            if "faults" in row
            else ""
        )
        recovered = "" if "recovered" not in row else _windows(row["recovered"] or math.inf)
        lines.append(
            f"| {row['dataset']}: {row['shift']}, {row['backbone']}, {row['scenario']}, "
            f"{row['seed']} | {row.get('delay', '')} | {harms} | {row['refused']} | "
            f"{row['rollbacks']} | {recovered} | {sensor} |"
        )
    return [*lines, ""]


def _live_lines(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        if row["kind"] == "live":
            events = ", ".join(f"{name} {at}" for at, name in row["events"])
            lines += [
                "## Through the real sockets",
                "",
                f"{row['dataset']}: {row['shift']}, {row['backbone']}, {row['windows']} windows at "
                f"{row['rate']:g} a second, the change at {row['changes'][0]}: "
                f"{row['acked']} acknowledged, {row['missing']} without a prediction, "
                f"{row['doubled']} doubled; area {row['auc']:.3f}. {events}.",
                "",
            ]
    return lines


def picture(rows: Sequence[Row], path: Path) -> None:
    """macro-F1 over time, a panel a scenario, of the first data set and seed of each."""
    runs = [row for row in rows if row["kind"] == "run"]
    scenarios = list(dict.fromkeys(row["scenario"] for row in runs))
    columns = min(3, len(scenarios))
    lines = -(-len(scenarios) // columns)
    figure, panels = plt.subplots(
        lines,
        columns,
        figsize=(5.2 * columns, 2.7 * lines + 0.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, scenario in zip(panels.flat, scenarios, strict=False):
        _panel(axes, [row for row in runs if row["scenario"] == scenario])
    for axes in panels.flat[len(scenarios) :]:
        axes.set_visible(False)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    marks = [
        Line2D([], [], color=_COLOURS[OURS], marker=mark, ls="", label=name)
        for name, mark in _MARKS.items()
    ]
    figure.legend(
        [*handles, *marks],
        [*labels, *_MARKS],
        loc="outside upper center",
        ncol=9,
        frameon=False,
        fontsize=8,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes: Any, rows: Sequence[Row]) -> None:
    first = rows[0]
    stream = ("dataset", "shift", "backbone", "seed")
    for row in rows:
        if any(row[key] != first[key] for key in stream):
            continue
        at, f1 = (np.array(values) for values in zip(*row["curve"], strict=True))
        ours = row["policy"] == OURS
        # The curve begins anew where circumstances change.
        for part in np.split(np.arange(len(at)), np.searchsorted(at, row["changes"], "right")):
            axes.plot(
                at[part],
                f1[part],
                color=_COLOURS[row["policy"]],
                lw=2.0 if ours else 1.1,
                zorder=3 if ours else 2,
                label=NAMES[row["policy"]].strip("*") if len(part) and part[0] == 0 else None,
            )
        if ours:
            for window, name in row["events"]:
                if name in _MARKS:
                    axes.plot(
                        window,
                        np.interp(window, at, f1),
                        _MARKS[name],
                        ms=6,
                        zorder=4,
                        color=_COLOURS[OURS],
                        mec="white" if name != "rollback" else None,
                        mew=0.8 if name != "rollback" else 1.8,
                    )
    for change in first["changes"]:
        axes.axvline(change, color="#b0413e", lw=1, ls=":")
    axes.set_title(
        f"{first['scenario']} ({first['dataset']}: {first['shift']})", fontsize=9, loc="left"
    )
    axes.set(ylim=(0, 1), xlabel="windows", ylabel="macro-F1")
    axes.grid(color="#e4e4df", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _kind_of_stream(row: Row) -> str:
    return f"{row['stream']}, {row['asked']:g}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _windows(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if math.isfinite(value) else "never"
