"""What a person reads of states and events, whatever version of the service they come from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.cli.digest import _LINES, digest
from edgetuner.cli.overview import overview
from edgetuner.cli.versions import version_page, version_table

DRIFT = {
    "detectors": {"embedding": 4.0, "confidence": 5.0},
    "streams": [
        {
            "client": "watch-7",
            "stream": "wrist",
            "windows": 30,
            "drifted": True,
            "context_start": 17,
            "sensor_fault": None,
            "statistics": {"embedding": 4.4, "confidence": 1.0},
        },
        {
            "client": "watch-8",
            "stream": "wrist",
            "windows": 0,
            "drifted": False,
            "context_start": 0,
            "sensor_fault": "flat",
            "statistics": {},
        },
    ],
}
STREAM = {"accepted": 30, "labelled": 9, "lost": 1, "refused": 0, "duplicates": 2}
LAST = {
    "rung": "cores",
    "gate": {"passed": True, "reason": "macro-F1 0.300 -> 0.900 on 20 windows, p = 0.01"},
    "train_seconds": 3.5,
    "trained_fraction": 0.0131,
    "peak_held_bytes": 4.0e8,
}
STATUS: dict[str, Any] = {
    "state": {"state": "drifted", "model": "m-1", "device": "cpu", "uptime_s": 65, "backlog": 0},
    "ingest": {
        "windows": 60,
        "labels": 9,
        "refusals": {"window.shape": 3, "label.label": 1},
        "streams": {"watch-7/wrist": STREAM, "watch-8/wrist": STREAM},
        "store_bytes": 5000,
    },
    "model": {"live": "m-1", "champion": "m-1", "metrics": {"held_out_macro_f1": 0.97}},
    "drift": DRIFT,
    "adaptation": {"state": "drifted", "deferred": "9 labels, 40 are needed", "last": LAST},
    "board": {
        "source": "sysfs",
        "total_power_w": 7.04,
        "temperature_c": {"cpu": 50.0, "gpu": 61.2},
        "memory_available_bytes": 2e9,
        "memory_total_bytes": 8e9,
        "energy_j": {"infer": 120.0, "train": 33.3},
    },
}


def test_a_drift_that_passed_by_itself() -> None:
    about = {"key": "c/s", "detector": "embedding", "onset_seq": 60}
    assert "c/s: as before again at window 60, by embedding" in digest("event.drift_over", about)


def test_what_an_operator_asked_for_shows_until_it_begins() -> None:
    said = digest("status.adaptation", {"state": "requested", "requested": "x", "deferred": "why"})
    assert "requested, asked for, waits: why" in said


@pytest.mark.parametrize("topic", [*_LINES, "event.from_the_future", "prediction.a.b"])
def test_a_message_without_facts_is_no_crash(topic: str) -> None:
    assert digest(topic, {}).isprintable()


@given(st.sampled_from(sorted(_LINES)), st.text())
def test_a_digest_is_one_printable_line(topic: str, text: str) -> None:
    data = dict.fromkeys(("reason", "why", "state", "key", "version", "model", "source"), text)
    assert digest(topic, data | {"error": {"message": text}}).isprintable()


@pytest.mark.parametrize(
    ("topic", "data", "said"),
    [
        (
            "event.drift",
            {
                "key": "watch-7/wrist",
                "detector": "embedding",
                "seq": 9,
                "onset_seq": 7,
                "statistic": 4.123456,
                "threshold": 4.0,
            },
            "watch-7/wrist: embedding 4.123 of 4 at window 9, since 7",
        ),
        (
            "event.sensor_fault",
            {"key": "w/x", "detector": "flat", "onset_seq": 7, "channel": 0},
            "w/x: flat in channel 0 since window 7",
        ),
        ("event.deferred", {"reason": "9 labels"}, "9 labels"),
        ("event.adaptation_failed", {"error": {"message": "killed"}}, "killed"),
        ("event.rollback", {"version": "m-1", "reason": "p = 0.01"}, "back to m-1: p = 0.01"),
        ("event.new", {"a": {"b": 1}}, "a.b=1"),
        (
            "prediction.watch-7.wrist",
            {"seq": 3, "predicted": "slow", "confidence": 0.971, "model": "m-1", "again": True},
            "window 3: slow (97 %) by m-1, again",
        ),
        (
            "prediction.watch-7.wrist",
            {"seq": 4, "predicted": "fast", "confidence": 0.7, "model": "m-1", "overruled": "slow"},
            "window 4: fast (70 %) by labels, where m-1 says slow",
        ),
        ("status.drift", DRIFT, "watch-7/wrist: embedding at 110 % of its threshold"),
        ("status.drift", {"streams": []}, "no window yet"),
        (
            "status.board",
            STATUS["board"],
            "sysfs: 7.0 W, 2.0 GB of 8.0 GB memory free, 61 C (gpu), energy infer 120 J train 33 J",
        ),
        ("status.board", {"source": "none"}, "none: nothing is measured"),
        (
            "status.adaptation",
            {"state": "training", "progress": {"rung": "head", "held_f1": 0.91}, "swaps": 2},
            "training, rung head, macro-F1 0.910; - begun, 2 swapped in, - promoted, - refused, "
            "- failed, - rolled back",
        ),
    ],
)
def test_what_is_said(topic: str, data: dict[str, Any], said: str) -> None:
    assert digest(topic, data) == said


def test_the_overview_tells_streams_apart() -> None:
    text = overview(STATUS)
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("watch-")}
    assert "########## 110 %" in rows["watch-7/wrist"]
    assert "##........  20 %" in rows["watch-7/wrist"]
    assert rows["watch-7/wrist"].endswith("drifted since window 17")
    assert rows["watch-8/wrist"].endswith("sensor fault: flat")
    assert "mostly for window.shape" in text
    assert "waits: 9 labels, 40 are needed" in text
    assert "cores passed the gate" in text and "1.31 % of the weights" in text
    assert "held out macro-F1 0.970" in text


def test_the_overview_of_a_service_that_says_little() -> None:
    text = overview({})
    assert "no stream yet" in text
    assert "None" not in text


@given(st.sets(st.sampled_from(sorted(STATUS))))
def test_the_overview_does_without_any_part(left_out: set[str]) -> None:
    assert overview({name: part for name, part in STATUS.items() if name not in left_out})


def test_versions_in_a_table() -> None:
    rows = [
        {"version": "a-1", "alias": "champion", "metrics": {"held_out_macro_f1": 0.91234}},
        {
            "version": "m-1",
            "metrics": {"unseen_subjects_macro_f1": 0.5},
            "created": "2026-01-02T03",
        },
    ]
    lines = version_table(rows).splitlines()
    assert "held out macro-F1" in lines[0] and "unseen subjects macro-F1" in lines[0]
    assert lines[1].split()[:3] == ["a-1", "champion", "-"]
    assert "0.912" in lines[1] and "0.500" in lines[2] and "2026-01-02 03" in lines[2]
    assert version_table([]).startswith("version")


def test_a_version_on_a_page() -> None:
    page = version_page(
        {
            "version": "a-1",
            "parent": "m-1",
            "adaptation": {"rung": "cores"},
            "backbone": {"factory": "mine:make", "args": {}, "head": "fc"},
            "history": [{"t": 0, "action": "promoted", "reason": "better", "version": "a-1"}],
        }
    )
    assert "from m-1: rung=cores" in page
    assert "your own mine:make(), last layer fc" in page
    assert "1970-01-01 00:00  promoted: better" in page
    assert "None" not in page


def test_the_version_that_answers_beside_the_live_one_is_named() -> None:
    data = {"live": "a1", "live_share": 0.73, "live_beside": ["m-1", "a0"], "champion": "a1"}
    said = "a1 is live and counts 0.73, m-1 and a0 the rest; champion a1"
    assert said in digest("status.model", data)
