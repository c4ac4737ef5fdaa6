from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from edgetuner.cli import main, parser
from edgetuner.errors import EdgetunerError
from tests.cli.child import edgetuner

Named = tuple[str, argparse.ArgumentParser]


def commands(top: argparse.ArgumentParser) -> Iterator[Named]:
    """Every command, those of commands too."""
    yield top.prog, top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from commands(inner)


@pytest.fixture(autouse=True)
def a_terminal_of_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


ALL = dict(commands(parser()))
WORKING = {name: command for name, command in ALL.items() if command.get_default("work")}


def test_all_commands_are_there() -> None:
    assert set(WORKING) == {
        f"edgetuner {name}"
        for name in (
            *("run", "validate-config", "doctor", "status", "tail", "adapt", "pause", "resume"),
            *("models list", "models show", "models promote", "models rollback"),
            *("bundle create", "bundle show", "bundle verify", "simulate", "replay"),
        )
    }


@pytest.mark.parametrize("name", WORKING)
def test_every_command_answers_in_json(name: str) -> None:
    options = {option for action in ALL[name]._actions for option in action.option_strings}
    assert "--json" in options or name == "edgetuner run"


@pytest.mark.parametrize("name", ALL)
def test_the_help_of_a_command_is_complete(name: str) -> None:
    command = ALL[name]
    first = (command.description or "").splitlines()[0]
    assert first[0].isupper() and first.endswith(".")
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                assert choice.help and choice.help[0].islower() and not choice.help.endswith(".")
            continue
        assert action.help, action
        if action.nargs != 0 and action.option_strings and not action.choices:
            # `--seed SEED` says nothing: the placeholder tells the unit or the kind.
            assert action.metavar or action.dest in ("address", "reason"), action


@pytest.mark.parametrize("name", ALL)
def test_the_help_of_a_command_fits_a_terminal(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split()[1:], "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines()), text
    assert text.startswith(f"usage: {name}")
    assert "COMMAND\n" not in text.partition("commands:")[2]  # no heading without a meaning


def test_every_command_is_named_by_the_first_help() -> None:
    done = edgetuner("--help")
    assert done.returncode == 0
    for name in {name.split()[1] for name in WORKING}:
        assert f"\n  {name} " in done.stdout
    for kind in EdgetunerError.__subclasses__():
        assert f"  {kind.exit_code}  " in done.stdout


def test_the_version_is_told() -> None:
    assert edgetuner("--version").stdout.startswith("edgetuner 0.")
