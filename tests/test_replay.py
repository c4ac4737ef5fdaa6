"""A recording with a drift, through the store, model, detectors and training of the board."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from edgetuner.bundle import Bundle
from edgetuner.config import Config, parse_config
from edgetuner.data import WindowSet
from edgetuner.drift.monitor import TOGETHER
from edgetuner.errors import ConfigError, DataError
from edgetuner.replay import Replayed, replay
from edgetuner.simulate import Script
from tests import waves
from tests.live import SETTINGS, merged

HOME, MOVED = 0, 1


def configured(bundle: Path | None, **over: Any) -> Config:
    return parse_config(merged({**SETTINGS, "bundle": bundle}, over))


def recording(subject: int, per_class: int, *, turned: bool = False) -> WindowSet:
    """Windows that the bundle has not seen."""
    windows = waves.source(subject + 1, per_class).select(subject=subject)
    return replace(windows, x=waves.turned(windows.x)) if turned else windows


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def told() -> list[tuple[int, str]]:
    """What was told while it happened."""
    return []


@pytest.fixture(scope="module")
def replayed(wave_bundle: Path, state: Path, told: list[tuple[int, str]]) -> Replayed:
    """At home, then turned round: one drift, one adaptation, and probation passed."""
    return asyncio.run(
        replay(
            # Else labels, of which there are plenty, would answer as well as any candidate.
            configured(wave_bundle, inference={"label_cache": False}),
            [recording(4, 12), recording(5, 60, turned=True)],
            Script(bout=4, label_share=0.6, label_delay=3),
            state,
            on_event=lambda window, topic, data: told.append((window, topic)),
        )
    )


def first(replayed: Replayed, topic: str) -> tuple[int, dict[str, Any]]:
    return next((window, data) for window, name, data in replayed.events if name == topic)


def test_every_window_is_predicted_once_and_in_order(replayed: Replayed) -> None:
    n = 36 + 180
    assert len(replayed.predicted) == len(replayed.versions) == len(replayed.y) == n
    assert replayed.phase == [HOME] * 36 + [MOVED] * 180
    assert replayed.y[:16] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]


def test_the_drift_is_found_after_it_began(replayed: Replayed) -> None:
    window, finding = first(replayed, "event.drift")
    assert 36 < window <= 36 + 24
    assert finding["key"] == "replay/recording"
    # The estimated onset may lie a few windows early: the statistic left zero by chance.
    assert 30 <= finding["onset_seq"] <= finding["seq"] <= window - 1
    assert window - 1 < finding["seq"] + TOGETHER  # windows are looked at some at a time


def test_it_adapts_with_cores_and_swaps(replayed: Replayed, wave_bundle: Path) -> None:
    order = [topic for _, topic, _ in replayed.events]
    for earlier, later in (
        ("event.drift", "event.deferred"),
        ("event.deferred", "event.adaptation_started"),
        ("event.adaptation_started", "event.gate"),
        ("event.gate", "event.swap"),
        ("event.swap", "event.promoted"),
    ):
        assert order.index(earlier) < order.index(later)
    _, swap = first(replayed, "event.swap")
    assert swap["previous"] == Bundle.load(wave_bundle).version
    assert swap["rung"] == "cores" and swap["core_norm"] > 0
    assert swap["gate"]["candidate_f1"] > swap["gate"]["champion_f1"]


def test_a_swap_lies_between_two_windows(replayed: Replayed) -> None:
    window, swap = first(replayed, "event.swap")
    assert set(replayed.versions[:window]) == {swap["previous"]}
    assert replayed.versions[window] == swap["version"]


def test_f1_comes_back(replayed: Replayed) -> None:
    rows = replayed.to_wire()["phases"]
    home, drifted, recovered = rows[:3]
    assert (home["phase"], drifted["phase"], recovered["phase"]) == (HOME, MOVED, MOVED)
    assert home["model"] == drifted["model"] != recovered["model"]
    assert home["macro_f1"] > 0.9
    assert drifted["macro_f1"] < 0.7
    assert recovered["macro_f1"] > drifted["macro_f1"] + 0.25
    assert sum(row["windows"] for row in rows) == len(replayed.predicted)


def test_the_report_is_json_and_the_events_were_told_as_they_came(
    replayed: Replayed, told: list[tuple[int, str]]
) -> None:
    report = json.loads(json.dumps(replayed.to_wire()))
    assert told == [(event["window"], event["event"]) for event in report["events"]]


def test_versions_and_the_job_are_kept(replayed: Replayed, state: Path) -> None:
    versions = {path.name for path in (state / "models" / "versions").iterdir()}
    assert set(replayed.versions) <= versions
    job = first(replayed, "event.swap")[1]["job"]
    assert (state / "jobs" / job / "result.json").is_file()


async def test_time_is_the_recordings_own(wave_bundle: Path, tmp_path: Path) -> None:
    """A replay without labels decides nothing, and the same one gives the same report."""
    phases = [recording(4, 8), recording(5, 8, turned=True)]
    script = Script(bout=4, label_share=0, hop_s=0.5)
    reports = [
        (await replay(configured(wave_bundle), phases, script, tmp_path / name)).to_wire()
        for name in ("once", "again")
    ]
    assert reports[0] == reports[1]
    assert {row["model"] for row in reports[0]["phases"]} == {Bundle.load(wave_bundle).version}
    assert any(event["event"] == "event.deferred" for event in reports[0]["events"])


async def test_drift_may_be_watched_only(wave_bundle: Path, tmp_path: Path) -> None:
    config = configured(wave_bundle, drift={"enabled": False})
    phases = [recording(4, 4), recording(5, 12, turned=True)]
    events = (await replay(config, phases, Script(bout=4, label_share=1), tmp_path)).events
    topics = {topic for _, topic, _ in events}
    assert "event.drift" in topics
    assert topics <= {"event.drift", "event.warn"}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("channels", lambda w: replace(w, x=w.x[:, :2], channels=w.channels[:2])),
        ("length", lambda w: replace(w, x=w.x[:, :, :16])),
        ("hz", lambda w: replace(w, hz=16.0)),
        ("classes", lambda w: replace(w, classes=("a", "b", "c"))),
    ],
)
async def test_windows_that_do_not_fit_are_refused_before_the_first(
    wave_bundle: Path, tmp_path: Path, field: str, change: Any
) -> None:
    good = recording(0, 2)
    told: list[str] = []
    with pytest.raises(DataError) as caught:
        await replay(
            configured(wave_bundle),
            [good, change(good)],
            Script(),
            tmp_path,
            on_event=lambda window, topic, data: told.append(topic),
        )
    assert caught.value.field == field
    assert told == []


async def test_a_bundle_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needed for a replay"):
        await replay(configured(None), [], Script(), tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_nothing_replayed_is_an_empty_report() -> None:
    assert Replayed().to_wire() == {"windows": 0, "phases": [], "events": []}
