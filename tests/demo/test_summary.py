from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from demo.screen import RECENT, Screen, rolling_f1
from demo.service import Event
from demo.summary import broken_promises, summarise, table
from edgetuner.simulate import Outcome, Sent

CLASSES = ("a", "b")
STATUS: dict[str, Any] = {
    "state": {"latency_s": {"p50": 0.001, "p99": 0.002}},
    "adaptation": {"adaptations": 2, "swaps": 1, "rollbacks": 0},
    "ingest": {"duplicates": 0, "lost": 0, "bytes_written": 10},
    "board": {"source": "simulated", "energy_j": {"infer": 1.0}},
}
SWAP = {
    "rung": "cores",
    "core_norm": 0.5,
    "trained_fraction": 0.0128,
    "train_seconds": 1.5,
    "gate": {"windows": 9},
}


def run_of(*parts: tuple[int, str | None, bool], each: int = 4) -> Outcome:
    """A stretch of windows for each (phase, model, right); without a model, none is predicted."""
    sent = [
        Sent(
            order=0,
            client="watch-7",
            seq=0,
            t=0.0,
            phase=phase,
            y=n % 2,
            labelled=False,
            predicted=None if model is None else CLASSES[(n + (not right)) % 2],
            model=model,
        )
        for phase, model, right in parts
        for n in range(each)
    ]
    for order, one in enumerate(sent):
        one.order = one.seq = order
        one.t = float(order)
    known = sum(one.predicted is not None for one in sent)
    return Outcome(sent=sent, acked=len(sent), predictions=known)


GOOD = run_of((0, "m-1", True), (1, "m-1", False), (1, "a-1", True))
EVENTS = [
    Event(5.5, "event.drift", {"key": "watch-7/imu", "seq": 6, "detector": "embedding"}),
    Event(7.5, "event.swap", SWAP),
]


def summary_of(
    outcome: Outcome = GOOD, events: list[Event] = EVENTS, **status: Any
) -> dict[str, Any]:
    return {**summarise(outcome, CLASSES, events, {**STATUS, **status}), "exit_code": 0}


def test_the_figures_of_a_demo_that_worked() -> None:
    summary = summary_of()
    assert (summary["f1_source"], summary["f1_drifted"], summary["f1_recovered"]) == (1.0, 0.0, 1.0)
    assert summary["drift_delay_windows"] == 6 - 4
    assert summary["windows_sent"] == summary["windows_acked"] == summary["predictions"] == 12
    assert (summary["core_norm"], summary["trained_fraction"]) == (0.5, 0.0128)
    assert (summary["train_seconds"], summary["telemetry_source"]) == (1.5, "simulated")
    assert broken_promises(summary) == []
    assert json.loads(json.dumps(summary)) == summary
    assert "watch" not in table(summary) and "12 / 12 / 12" in table(summary)


def test_what_did_not_happen_is_null_and_keeps_no_promise() -> None:
    summary = summary_of(run_of((0, "m-1", True), (1, "m-1", False)), events=[])
    for name in ("f1_recovered", "drift_delay_windows", "core_norm", "train_seconds", "rung"):
        assert summary[name] is None
    assert {"F1 came back", "a version with trained cores swapped in"} <= set(
        broken_promises(summary)
    )
    assert "at most 1.49 % trained" in broken_promises(summary)
    assert table(summary).count(" -") >= 3


def test_nothing_sent_keeps_no_promise() -> None:
    assert "one prediction each" in broken_promises(summary_of(Outcome(), events=[]))


def test_an_unpredicted_window_does_not_hide_who_was_live() -> None:
    """The first window on the other wrist has no prediction, so no model either."""
    outcome = run_of((0, "m-1", True), (1, None, False), (1, "m-1", False), (1, "a-1", True))
    summary = summary_of(outcome)
    assert (summary["f1_drifted"], summary["f1_recovered"]) == (0.0, 1.0)
    assert broken_promises(summary) == ["one prediction each"]


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"lost": 1}, "not one window lost"),
        ({"duplicates": 1}, "none twice"),
        ({"windows_acked": 11}, "one prediction each"),
        ({"core_norm": 0.0}, "a version with trained cores swapped in"),
        ({"f1_recovered": 0.34}, "F1 came back"),
        ({"trained_fraction": 0.02}, "at most 1.49 % trained"),
        ({"exit_code": -9}, "the service ended cleanly"),
        ({"exit_code": None}, "the service ended cleanly"),
    ],
)
def test_a_broken_promise_is_named(change: dict[str, Any], promise: str) -> None:
    assert broken_promises({**summary_of(), **change}) == [promise]


def test_a_training_time_that_is_not_known_makes_the_sum_unknown() -> None:
    swap = {name: value for name, value in SWAP.items() if name != "train_seconds"}
    assert summary_of(events=[*EVENTS, Event(9.0, "event.swap", swap)])["train_seconds"] is None
    twice = summary_of(events=[*EVENTS, Event(9.0, "event.swap", SWAP)])
    assert twice["train_seconds"] == 3.0


def test_a_false_alarm_before_the_move_is_no_delay() -> None:
    alarm = Event(1.0, "event.drift", {"key": "watch-7/imu", "seq": 2, "detector": "embedding"})
    assert summary_of(events=[alarm])["drift_delay_windows"] is None
    assert summary_of(events=[alarm, *EVENTS])["drift_delay_windows"] == 2


def test_a_board_that_measures_nothing() -> None:
    summary = summary_of(board=None)
    assert summary["telemetry_source"] is None and summary["energy_j"] is None


# ------------------------------------------------------------------ what is shown meanwhile


def test_rolling_f1_begins_when_there_are_enough() -> None:
    outcome = run_of((0, "m-1", True), each=RECENT + 3)
    assert rolling_f1(outcome.sent[: RECENT - 1], CLASSES) == []
    assert rolling_f1(outcome.sent, CLASSES) == [(RECENT - 1 + n, 1.0) for n in range(4)]


def test_the_screen_tells_each_event_once(capsys: pytest.CaptureFixture[str]) -> None:
    events = list(EVENTS)
    screen = Screen(CLASSES, events, 200)
    outcome = run_of((0, "m-1", True), (1, "m-1", False), each=60)
    screen.update(outcome)
    events.append(Event(9.0, "event.refused", {"reason": "no gain"}))
    events.append(Event(9.0, "event.adaptation_failed", {"error": {"message": "killed"}}))
    events.append(Event(9.0, "status.adaptation", {"state": "watching"}))
    screen.update(outcome)
    screen.end()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if "rolling" not in line] == [
        "drift detected: embedding of watch-7/imu",
        "candidate swapped in",
        "candidate refused: no gain",
        "adaptation failed: killed",
    ]
    (rolling,) = [line for line in lines if "rolling" in line]
    assert "120/200 windows  left wrist" in rolling and "macro-F1 0.000" in rolling


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from demo.picture import draw

    outcome = run_of((0, "m-1", True), (1, "m-1", False), (1, "a-1", True), each=40)
    draw(outcome, CLASSES, EVENTS, tmp_path / "f1.png")
    assert (tmp_path / "f1.png").read_bytes().startswith(b"\x89PNG")
    draw(Outcome(), CLASSES, [], tmp_path / "empty.png")


def test_an_earlier_run_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from demo.__main__ import _clear

    for name in ("state/models/x", "summary.json", "letters/mine.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    _clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]
    assert (tmp_path / "letters/mine.txt").exists()
    _clear(tmp_path / "new" / "folder")
