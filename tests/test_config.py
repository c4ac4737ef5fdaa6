from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from edgetuner.addresses import address_of
from edgetuner.config import (
    FIXED,
    Config,
    fixed_changes,
    load_config,
    parse_config,
    sections,
)
from edgetuner.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    file = folder / "edgetuner.yaml"
    file.write_text(text)
    return file


def refusal(raw: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


# ------------------------------------------------------------------ what the fields are


def undocumented(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if not (field.description or "").strip():
            yield f"{model.__name__}.{name}"


def test_every_field_is_documented() -> None:
    assert not [name for section in sections().values() for name in undocumented(section)]
    plain = set(undocumented(Config)) - {f"Config.{name}" for name in sections()}
    assert not plain
    for section in sections().values():
        assert section.__doc__ and section.__doc__ != BaseModel.__doc__


def test_an_undocumented_field_is_found() -> None:
    class Careless(BaseModel):
        said: int = 1

    assert list(undocumented(Careless)) == ["Careless.said"]


def test_every_section_is_frozen_and_strict_about_keys() -> None:
    config = Config()
    for name in sections():
        section = getattr(config, name)
        with pytest.raises(ValidationError):
            setattr(section, next(iter(type(section).model_fields)), None)
    with pytest.raises(ValidationError):
        config.bundle = Path("elsewhere")


# ------------------------------------------------------------------ the files that come with it


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_shipped_configuration_is_valid(file: Path) -> None:
    config = load_config(file)
    assert config.state_dir.is_absolute()
    for name, address in config.sockets:
        assert address_of(name, file) == address


def test_the_default_configuration_is_current() -> None:
    render = runpy.run_path(str(ROOT / "tools/default_config.py"))["render"]
    assert (ROOT / "configs/default.yaml").read_text() == render(), (
        "run: python tools/default_config.py > configs/default.yaml"
    )


def test_the_default_configuration_says_nothing_but_the_defaults() -> None:
    file = ROOT / "configs/default.yaml"
    assert load_config(file) == parse_config({}, base=file.parent)
    for key in (*Config.model_fields, *(k for s in sections().values() for k in s.model_fields)):
        assert f"{key}: " in file.read_text() or f"{key}:\n" in file.read_text()


# ------------------------------------------------------------------ what is refused


def test_all_that_is_wrong_is_told_at_once() -> None:
    raw = {"adapt": {"steps": 0, "min_lables": 3}, "gate": {"min_windows": "few"}}
    with pytest.raises(ConfigError, match="correct as well") as caught:
        parse_config(raw)
    for name in ("adapt.steps", "adapt.min_lables", "gate.min_windows"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "field", "hint"),
    [
        ({"adapt": {"min_lables": 3}}, "adapt.min_lables", "did you mean adapt.min_labels?"),
        ({"min_labels": 3}, "min_labels", "did you mean adapt.min_labels?"),
        ({"sokets": {}}, "sokets", "did you mean sockets?"),
        ({"xyzzy": 1}, "xyzzy", "configs/default.yaml"),
    ],
)
def test_an_unknown_key_is_named(raw: dict[str, Any], field: str, hint: str) -> None:
    error = refusal(raw)
    assert error.field == field
    assert "unknown key" in str(error)
    assert hint in str(error)


@pytest.mark.parametrize(
    ("raw", "field", "value"),
    [
        ({"ingest": {"credit": 0}}, "ingest.credit", 0),
        ({"ingest": {"credit": "many"}}, "ingest.credit", "many"),
        ({"adapt": {"holdout": 1.5}}, "adapt.holdout", 1.5),
        ({"adapt": {"rungs": []}}, "adapt.rungs", []),
        ({"adapt": {"rungs": ["heads"]}}, "adapt.rungs.0", "heads"),
        ({"adapt": {"deadline_s": "ten minutes"}}, "adapt.deadline_s", "ten minutes"),
        ({"adapt": {"deadline_s": "-5s"}}, "adapt.deadline_s", "-5s"),
        ({"adapt": {"max_temperature_c": float("nan")}}, "adapt.max_temperature_c", None),
        ({"adapt": {"deadline_s": float("inf")}}, "adapt.deadline_s", float("inf")),
        ({"store": {"durability": "most"}}, "store.durability", "most"),
        ({"inference": {"allow_factories": ["a.b"]}}, "inference.allow_factories.0", "a.b"),
        ({"inference": {"allow_factories": ["-a:b"]}}, "inference.allow_factories.0", "-a:b"),
        ({"telemetry": {"sources": ["gpu"]}}, "telemetry.sources.0", "gpu"),
        ({"sockets": {"status": "localhost"}}, "sockets.status", "localhost"),
        ({"sockets": {"plain": "tcp://127.0.0.1"}}, "sockets.plain", "tcp://127.0.0.1"),
        ({"state_dir": 5}, "state_dir", 5),
        ({"adapt": 5}, "adapt", 5),
    ],
)
def test_a_wrong_value_is_named(raw: dict[str, Any], field: str, value: Any) -> None:
    error = refusal(raw)
    assert error.field == field
    if value is not None:
        assert error.value == value
        assert repr(value) in str(error)


def test_a_rule_over_several_keys_speaks_plainly() -> None:
    error = refusal({"security": {"server_key_file": "/k"}})
    assert error.field == "security"
    assert str(error).startswith("security: server_key_file needs sensors_dir and operators_dir")
    assert "Value error" not in str(error)


@pytest.mark.parametrize(
    ("sockets", "problem"),
    [
        ({"status": "ipc:///a", "control": "ipc:///a"}, "status and control are both ipc:///a"),
        ({"plain": "tcp://*:5555"}, "security.server_key_file"),
        ({"ingest": "tcp://192.168.1.5:5555"}, "sockets.ingest is tcp://192.168.1.5:5555"),
    ],
)
def test_addresses_that_cannot_be_bound_so_are_refused_at_once(
    sockets: dict[str, str], problem: str
) -> None:
    assert problem in str(refusal({"sockets": sockets}))


@pytest.mark.parametrize("port", ["*", "0"])
def test_any_free_port_may_be_asked_for_twice(port: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    parse_config({"sockets": {"ingest": address, "plain": address}})


@pytest.mark.parametrize("status", ["ipc://./run/x", "ipc://{folder}/run/x", "ipc://run/../run/x"])
def test_two_addresses_may_be_one_file(tmp_path: Path, status: str) -> None:
    where = status.format(folder=tmp_path)
    file = written(tmp_path, f"sockets: {{ingest: ipc://run/x, status: '{where}'}}")
    with pytest.raises(ConfigError, match="sockets: ingest and status are both"):
        load_config(file)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("state_dir: [", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("- 1\n- 2\n", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("a: 2024-13-45", "not valid YAML"),
        ("a: " + 3000 * "[", "not valid YAML"),
        ("state_dir: ~nobody-has-this-name/x\n", "home folder"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, problem: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value) or caught.value.field == "state_dir"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            load_config(path)
        assert caught.value.field == str(path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(binary)


# ------------------------------------------------------------------ what is understood


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "adapt:\nsecurity:\n"])
def test_what_is_left_out_has_its_default(tmp_path: Path, text: str) -> None:
    assert load_config(written(tmp_path, text)) == parse_config({}, base=tmp_path.resolve())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *((90, 90.0), ("90", 90.0), ("90s", 90.0), ("90 s", 90.0), ("9e1", 90.0), ("250ms", 0.25)),
        *(("15min", 900.0), ("1.5h", 5400.0), ("6h", 21600.0), ("7d", 604800.0)),
    ],
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_config({"adapt": {"deadline_s": text}}).adapt.deadline_s == seconds


def test_what_is_no_duration_is_told_how_to_write_one() -> None:
    with pytest.raises(ConfigError, match="write 90, 90s, 15min, 6h or 7d"):
        parse_config({"drift": {"false_alarm_every": "7 days"}})


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("adapt:\n  steps: 3\n  steps: 4\n")
    with pytest.raises(ConfigError, match=r"line 3: a key is given twice .*'steps'"):
        load_config(file)


@given(st.floats(min_value=0.001, max_value=1e6), st.sampled_from(["ms", "s", "min", "h", "d"]))
def test_a_unit_scales_its_number(number: float, unit: str) -> None:
    scale = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    config = parse_config({"adapt": {"deadline_s": f"{number:f}{unit}"}})
    assert config.adapt.deadline_s == pytest.approx(float(f"{number:f}") * scale)


def test_paths_are_taken_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir("/")
    file = written(
        tmp_path,
        """
state_dir: state
bundle: /opt/bundle
sockets: {ingest: ipc://run/in, status: "ipc:///run/status", control: "tcp://127.0.0.1:5"}
security: {server_key_file: ~/k, sensors_dir: keys, operators_dir: keys}
""",
    )
    config = load_config(file)
    assert config.state_dir == tmp_path / "state"
    assert config.bundle == Path("/opt/bundle")
    assert config.sockets.ingest == f"ipc://{tmp_path}/run/in"
    assert config.sockets.status == "ipc:///run/status"
    assert config.sockets.control == "tcp://127.0.0.1:5"
    assert config.security.server_key_file == Path("/home/somebody/k")
    assert config.security.sensors_dir == tmp_path / "keys"
    for name, address in config.sockets:
        assert address_of(name, file) == address


# ------------------------------------------------------------------ what a reload may change


def test_nothing_changed_is_nothing_fixed() -> None:
    assert fixed_changes(Config(), Config()) == []


@pytest.mark.parametrize(
    ("raw", "fixed"),
    [
        ({"state_dir": "/elsewhere"}, ["state_dir"]),
        ({"sockets": {"plain": "ipc:///p"}, "store": {"max_mb": 9}}, ["sockets", "store"]),
        ({"ingest": {"max_streams": 3}}, ["ingest.max_streams"]),
        ({"ingest": {"credit": 3}}, []),
        ({"drift": {"enabled": False}}, []),
        ({"drift": {"sensor_faults": False}}, ["drift.sensor_faults"]),
        ({"adapt": {"rank": 2}, "gate": {"min_windows": 9}, "log": {"level": "error"}}, []),
    ],
)
def test_what_takes_a_restart_is_named(raw: dict[str, Any], fixed: list[str]) -> None:
    assert fixed_changes(Config(), parse_config(raw)) == fixed


def test_fixed_names_exist() -> None:
    raw = Config().model_dump()
    for name in FIXED:
        section, _, key = name.partition(".")
        assert key in raw[section] if key else section in raw
