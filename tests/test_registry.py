from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgetuner.bundle import Bundle, write_bundle
from edgetuner.errors import BundleError, RegistryError
from edgetuner.registry import Aliases, Registry


@pytest.fixture(scope="module")
def made(wave_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of five different versions."""
    good, root = Bundle.load(wave_bundle), tmp_path_factory.mktemp("made")
    for number in range(5):
        metrics = {"held_out_macro_f1": number / 10}
        description = good.manifest.description.model_copy(update={"metrics": metrics})
        write_bundle(root / f"{number}", good, description, prefix=f"v{number}")
    return sorted(root.iterdir())


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", keep=2)


def reopened(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", keep=2)


def test_a_version_is_copied_in_under_its_own_id(registry: Registry, made: list[Path]) -> None:
    version = registry.add(made[0])
    assert version == Bundle.load(made[0]).version
    assert registry.add(made[0]) == version and registry.ids() == [version]
    assert Bundle.load(registry.path(version)).version == version


def test_a_tampered_bundle_is_not_taken_in(
    registry: Registry, made: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "copy")
    (tmp_path / "copy" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(BundleError):
        registry.add(tmp_path / "copy")
    assert registry.ids() == []


@pytest.mark.parametrize("name", ["nobody", "candidate", "..", "", ".hidden", "../../etc"])
def test_an_unknown_version_is_refused(registry: Registry, made: list[Path], name: str) -> None:
    registry.install(registry.add(made[0]))
    with pytest.raises(RegistryError) as refused:
        registry.path(name)
    assert refused.value.field == "version" and refused.value.remedy


def test_aliases_follow_the_life_of_a_version_over_restarts(
    tmp_path: Path, registry: Registry, made: list[Path]
) -> None:
    a, b, c = (registry.add(path) for path in made[:3])
    registry.install(a)
    registry.begin_probation(b, "it proved better")
    assert registry.aliases == reopened(tmp_path).aliases == Aliases(a, b, None)
    registry.promote(b, "it held")
    assert registry.aliases == reopened(tmp_path).aliases == Aliases(b, None, a)
    registry.begin_probation(c, "better still")
    registry.end_probation("it was not")
    assert registry.aliases == reopened(tmp_path).aliases == Aliases(b, None, a)
    assert registry.restore_previous("second thoughts") == a
    assert registry.aliases == reopened(tmp_path).aliases == Aliases(a, None, b)
    done = [(entry["action"], entry["version"]) for entry in reopened(tmp_path).history()]
    assert done == [
        ("installed", a),
        ("swapped in", b),
        ("promoted", b),
        ("swapped in", c),
        ("rolled back", c),
        ("rolled back", b),
    ]


def test_promoting_the_champion_ends_a_probation(registry: Registry, made: list[Path]) -> None:
    a, b = (registry.add(path) for path in made[:2])
    registry.install(a)
    registry.begin_probation(b, "")
    registry.promote(a, "keep it")
    assert registry.aliases == Aliases(a, None, None)


def test_there_may_be_nothing_to_go_back_to(registry: Registry, made: list[Path]) -> None:
    registry.install(registry.add(made[0]))
    with pytest.raises(RegistryError, match="no previous version"):
        registry.restore_previous("")


def test_proven_versions_are_told_the_latest_first(
    tmp_path: Path, registry: Registry, made: list[Path]
) -> None:
    a, b, c, d, e = (registry.add(path) for path in made)
    registry.install(a)
    for version in (b, c, d):
        registry.begin_probation(version, "")
        registry.promote(version, "")
    registry.begin_probation(e, "")
    assert registry.proven() == [d, c, b, a], "one on probation is not proven"
    registry.end_probation("worse")
    registry.begin_probation(b, "")
    registry.end_probation("worse")
    assert registry.proven() == [d, c, a], "what was taken back is not, whatever it was before"
    registry.begin_probation(a, "it knows this")
    registry.end_probation("the service ended", interrupted=True)
    assert registry.proven() == [d, c, a], "an interruption says nothing against it"
    registry.begin_probation(a, "it knows this")
    registry.promote(a, "")
    assert reopened(tmp_path).proven() == [a, d, c]
    registry.restore_previous("second thoughts")
    assert registry.proven() == [d, c]


def test_a_previous_version_on_probation_is_shown_as_the_candidate(
    registry: Registry, made: list[Path]
) -> None:
    a, b = (registry.add(path) for path in made[:2])
    registry.install(a)
    registry.promote(b, "")
    registry.begin_probation(a, "it knows this")
    assert {row["version"]: row["alias"] for row in registry.rows()} == {
        a: "candidate",
        b: "champion",
    }


def test_a_configured_bundle_is_installed_once_each_time_it_is_named_anew(
    tmp_path: Path, registry: Registry, made: list[Path]
) -> None:
    assert registry.replaces(made[0])
    a, b = (registry.add(path) for path in made[:2])
    registry.install(a)
    registry.promote(b, "adapted", beside=a)
    assert not registry.replaces(made[0]), "it was taken, and something came of it"
    assert registry.replaces(made[2])
    c = registry.add(made[2])
    registry.install(c)
    assert registry.aliases == Aliases(champion=c, previous=b)
    assert not reopened(tmp_path).replaces(made[2])
    registry.restore_previous("not so good")
    assert not reopened(tmp_path).replaces(made[2]), "what was taken back is not installed again"
    assert registry.replaces(made[1]), "the champion itself is named"
    registry.install(b)
    assert registry.aliases == Aliases(champion=b, previous=c)
    registry.promote(a, "by hand")
    assert not reopened(tmp_path).replaces(made[1])
    assert registry.replaces(made[2]), "named anew"


def test_a_bundle_replaces_a_champion_that_is_damaged(registry: Registry, made: list[Path]) -> None:
    a = registry.add(made[0])
    registry.install(a)
    (registry.path(a) / "manifest.json").write_text("{")
    assert registry.replaces(made[1])


def test_an_older_state_directory_knows_by_its_history_what_was_installed(
    tmp_path: Path, registry: Registry, made: list[Path]
) -> None:
    registry.install(registry.add(made[0]))
    aliases = tmp_path / "models/aliases.json"
    before = json.loads(aliases.read_text())
    del before["installed"]
    aliases.write_text(json.dumps(before))
    assert not reopened(tmp_path).replaces(made[0])
    assert reopened(tmp_path).replaces(made[1])


def test_without_a_history_the_champion_tells_what_it_began_with(
    tmp_path: Path, registry: Registry, made: list[Path]
) -> None:
    good = Bundle.load(made[0])
    child = good.manifest.description.model_copy(update={"parent": good.version})
    write_bundle(tmp_path / "child", good, child, prefix="child")
    registry.install(registry.add(made[0]))
    registry.promote(registry.add(tmp_path / "child"), "adapted")
    for known in (False, True):
        aliases = json.loads((tmp_path / "models/aliases.json").read_text())
        aliases["installed"] = None
        (tmp_path / "models/aliases.json").write_text(json.dumps(aliases))
        if not known:
            (tmp_path / "models/history.jsonl").rename(tmp_path / "lost")
        again = reopened(tmp_path)
        assert again.aliases.installed == good.version
        assert not again.replaces(made[0]) and again.replaces(made[1])
        if not known:
            (tmp_path / "lost").rename(tmp_path / "models/history.jsonl")


def test_a_copy_that_was_damaged_is_made_anew(registry: Registry, made: list[Path]) -> None:
    a = registry.add(made[0])
    (registry.path(a) / "weights.safetensors").write_bytes(b"")
    assert registry.add(made[0]) == a
    assert Bundle.load(registry.path(a)).version == a


def test_a_bundle_that_cannot_be_read_replaces_nothing(tmp_path: Path, registry: Registry) -> None:
    for gone in (tmp_path / "gone", tmp_path / ("x" * 300)):
        with pytest.raises(BundleError):
            registry.replaces(gone)


def test_a_bundle_for_another_task_replaces_nothing(
    tmp_path: Path, registry: Registry, made: list[Path]
) -> None:
    registry.install(registry.add(made[0]))
    good = Bundle.load(made[0])
    faster = good.manifest.description.model_copy(update={"hz": 400.0})
    write_bundle(tmp_path / "faster", good, faster, prefix="faster")
    with pytest.raises(RegistryError, match=r"hz: another task"):
        registry.replaces(tmp_path / "faster")


def test_pruning_takes_what_proved_nothing_first_and_never_what_was_installed(
    registry: Registry, made: list[Path]
) -> None:
    a, b, c, d, e = (registry.add(path) for path in made)
    registry.install(a)
    registry.promote(b, "")
    registry.promote(c, "")
    registry.promote(e, "")
    assert registry.prune() == [] and len(registry.ids()) == 5, "two are spare"
    registry._keep = 1
    assert registry.prune() == [d]
    registry._keep = 0
    assert registry.prune() == [b]
    assert set(registry.ids()) == {a, c, e}
    registry.install(registry.add(made[1]))
    registry.promote(e, "")
    assert registry.prune() == [c] and a in registry.ids(), "two installed ones are kept"


def test_pruning_spares_what_an_alias_names(registry: Registry, made: list[Path]) -> None:
    versions = [registry.add(path) for path in made]
    oldest, second = registry.ids()[:2]
    registry.install(oldest)
    registry.promote(second, "")
    gone = registry.prune()
    assert len(gone) == len(versions) - 2 - 2
    assert set(registry.ids()) == set(versions) - set(gone)
    assert {oldest, second} <= set(registry.ids())
    assert not list(registry.path(oldest).parent.glob(".*")), "nothing half-deleted is left"


def test_a_torn_line_costs_the_history_one_entry(
    tmp_path: Path, registry: Registry, made: list[Path]
) -> None:
    a, b = (registry.add(path) for path in made[:2])
    registry.install(a)
    history = tmp_path / "models" / "history.jsonl"
    history.write_bytes(history.read_bytes() + b'\n{"t": 1.5, "acti\xff')
    registry.promote(b, "after the loss of power")
    assert [entry["version"] for entry in reopened(tmp_path).history()] == [a, b]
    assert {row["version"]: row["last"] for row in registry.rows()} == {
        a: "installed",
        b: "promoted",
    }


def test_a_long_history_forgets_versions_that_are_gone(
    tmp_path: Path, registry: Registry, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetuner import registry as module

    monkeypatch.setattr(module, "_HISTORY", 20)
    a, b = (registry.add(path) for path in made[:2])
    registry.install(a)
    lines = [
        json.dumps({"t": n, "action": "swapped in", "version": f"gone-{n}", "reason": ""})
        for n in range(30)
    ]
    history = tmp_path / "models" / "history.jsonl"
    history.write_text(history.read_text() + "\n" + "\n".join(lines))
    registry.promote(b, "the newest")
    registry.prune()
    left = [entry["version"] for entry in registry.history()]
    assert left[0] == a and left[-1] == b and len(left) == 11
    assert registry.aliases.installed == a
    assert reopened(tmp_path).aliases.champion == b


def test_what_a_crash_left_half_done_is_swept(
    tmp_path: Path, registry: Registry, made: list[Path]
) -> None:
    version = registry.add(made[0])
    versions = tmp_path / "models" / "versions"
    for name in (".v1.gone", ".v2.incoming"):
        (versions / name).mkdir()
    registry.sweep()
    assert [path.name for path in versions.iterdir()] == [version]


def test_a_version_that_goes_while_others_are_counted_is_not_there(
    registry: Registry, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (registry.add(path) for path in made[:2])
    path_of, stat = registry.path(b), Path.stat

    def vanishing(path: Path, **how: Any) -> Any:
        if path == path_of:
            raise FileNotFoundError(path)
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", vanishing)
    assert registry.ids() == [a]


def test_aliases_that_cannot_be_understood_are_not_guessed(
    tmp_path: Path, registry: Registry
) -> None:
    for content in ("{", json.dumps(["a"]), json.dumps({"king": "a"})):
        (tmp_path / "models" / "aliases.json").write_text(content)
        with pytest.raises(RegistryError) as refused:
            reopened(tmp_path)
        assert "aliases.json" in str(refused.value) and refused.value.remedy
