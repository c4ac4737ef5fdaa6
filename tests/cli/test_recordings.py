"""`edgetuner simulate` and `edgetuner replay`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from edgetuner.cli import main
from tests import waves
from tests.cli.child import answer, complaint, edgetuner
from tests.cli.recordings import save, worn_twice
from tests.live import SETTINGS, Live

PHASES = ("--phase", "position=upright", "--phase", "position=turned")
DATA, USAGE, CONFIG = 65, 64, 78


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    return save(worn_twice(waves.source(2, 4)), folder / "worn.npz")


@pytest.fixture(scope="module")
def live(wave_bundle: Path) -> Iterator[Live]:
    with Live(wave_bundle, {"drift": {"enabled": False}}) as service:
        yield service


def test_simulate_tells_each_phase_in_json(live: Live, recording: Path) -> None:
    report = answer(
        *("simulate", recording, "-c", live.config_path, *PHASES, "--rate", 200),
        *("--by", "subject", "--labels", 0.5, "--label-delay", 2, "--bout", 2),
    )
    assert report["windows"] == report["acked"] == report["predictions"] == 48
    assert report["duplicates"] == 0 and report["refusals"] == []
    upright, turned = report["phases"]
    assert (upright["windows"], turned["windows"]) == (24, 24)
    assert upright["accuracy"] > turned["accuracy"]
    assert upright["macro_f1"] > turned["macro_f1"]
    assert [upright["selected"], turned["selected"]] == [*PHASES[1::2]]
    streams = answer("status", "-c", live.config_path)["ingest"]["streams"]
    assert set(streams) == {"subject-0/imu", "subject-1/imu"}
    assert all(counts["labelled"] > 0 for counts in streams.values())


def test_simulate_is_a_table_for_a_person(live: Live, recording: Path) -> None:
    done = edgetuner(
        *("simulate", recording, "-c", live.config_path, "--rate", 200, "--stream", "wrist"),
        *("--select", "subject=0,position=upright", "--labels", 0),
    )
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()
    columns = ["phase", "selected", "windows", "predicted", "accuracy", "macro_f1"]
    assert header.split() == columns
    assert row.split()[:4] == ["0", "all", "12", "12"]


def test_simulate_names_what_is_wrong(live: Live, recording: Path, tmp_path: Path) -> None:
    to = ("-c", live.config_path)
    assert "--by" in complaint(USAGE, "simulate", recording, *to, "--by", "shoe")
    assert "bout" in complaint(USAGE, "simulate", recording, *to, "--bout", "0")
    assert "above 0" in complaint(USAGE, "simulate", recording, *to, "--rate", "0")
    assert "label_share" in complaint(USAGE, "simulate", recording, *to, "--labels", "2")
    assert "selects no window" in complaint(
        DATA, "simulate", recording, *to, "--phase", "subject=9"
    )
    assert "is no group" in complaint(DATA, "simulate", recording, *to, "--phase", "shoe=1")
    source = waves.source(1, 2)
    narrow = replace(source, x=source.x[:, :2], channels=source.channels[:2])
    two = save(narrow, tmp_path / "two.npz")
    assert "shape" in complaint(DATA, "simulate", two, *to)


@pytest.fixture
def config(wave_bundle: Path, tmp_path: Path) -> Path:
    file = tmp_path / "edgetuner.yaml"
    file.write_text(yaml.safe_dump({**SETTINGS, "bundle": str(wave_bundle)}))
    return file


def test_replay_tells_each_phase_in_json(config: Path, recording: Path, tmp_path: Path) -> None:
    state = tmp_path / "kept"
    report = answer(
        *("replay", recording, "-c", config, *PHASES, "--select", "subject=0"),
        *("--labels", 0, "--bout", 2, "--state-dir", state),
    )
    assert report["windows"] == 24
    upright, turned = report["phases"]
    assert (upright["phase"], upright["windows"], turned["windows"]) == (0, 12, 12)
    assert upright["macro_f1"] > turned["macro_f1"]
    assert all(event["event"].startswith("event.") for event in report["events"])
    assert len(list((state / "models" / "versions").iterdir())) == 1


def test_replay_is_a_table_for_a_person(config: Path, recording: Path) -> None:
    done = edgetuner("replay", recording, "-c", config, *PHASES, "--labels", 0, "--hop", 0.5)
    assert done.returncode == 0, done.stderr
    assert "\nphase  selected" in f"\n{done.stdout}"
    assert " drift " in done.stdout
    assert "event." not in done.stdout


def test_replay_names_what_is_wrong(
    config: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = save(replace(waves.source(1, 2), hz=16.0), tmp_path / "slow.npz")
    assert main(["replay", str(slow), "-c", str(config)]) == DATA
    assert "hz: the recording does not fit the bundle" in capsys.readouterr().err
    config.write_text("{}")
    assert main(["replay", str(recording), "-c", str(config)]) == CONFIG
    assert "bundle: needed for a replay" in capsys.readouterr().err
