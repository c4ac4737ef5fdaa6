"""`edgetuner doctor`, as a person or a script runs it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.child import answer, complaint, edgetuner
from tests.live import Live


def checks(*arguments: object) -> dict[str, dict[str, object]]:
    return {one["check"]: one for one in answer("doctor", *arguments)["checks"]}


def test_all_is_tried_where_no_service_runs(wave_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = tmp_path / "e.yaml"
    config.write_text(
        f"bundle: {wave_bundle}\nstate_dir: state\ntelemetry: {{sources: [host]}}\n"
        "sockets: {ingest: 'ipc://run/i', status: 'ipc://run/s', control: 'ipc://run/c'}\n"
        "adapt: {trained_fraction: 0.3}\n"
    )
    found = checks("-c", config)
    order = ["board", "clock", "memory", "heat", "telemetry: host", "configuration", "state_dir"]
    order += ["commit", "sockets", "device", "model", "training"]
    assert [name for name in found if name in order] == order
    assert {name for name, one in found.items() if one["state"] == "trouble"} == set()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "e.yaml"}


def test_it_asks_a_service_that_runs(wave_bundle: Path) -> None:
    with Live(wave_bundle) as service:
        found = checks("-c", service.config_path, "--no-training")
    assert "a service answers" in str(found["sockets"]["said"])
    assert "training" not in found
    assert found["model"]["state"] == "ok"


def test_the_first_trouble_gives_the_exit_code(tmp_path: Path) -> None:
    config = tmp_path / "e.yaml"
    config.write_text("adapt: {min_lables: 3}\n")
    assert "adapt.min_lables" in complaint(78, "doctor", "-c", config)
    done = edgetuner("doctor", "-c", config)
    lines = done.stdout.splitlines()
    assert lines[-2].startswith("trouble  configuration")
    assert lines[-1].endswith("1 in trouble")
    done = edgetuner("doctor", "-c", config, "--json")
    assert json.loads(done.stdout)["well"] is False
    assert json.loads(done.stderr)["error"]["code"] == "config"
