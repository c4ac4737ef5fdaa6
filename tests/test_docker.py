from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix[1:])
every_service = pytest.mark.parametrize("name", SERVICES)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Name and argument of every instruction, comments left out and continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    parts = (line.partition(" ") for line in joined.splitlines() if line)
    return [(name, argument) for name, _, argument in parts]


def arguments(path: Path, name: str) -> list[str]:
    return [argument for found, argument in instructions(path) if found == name]


def test_there_is_an_image_for_the_board_and_one_for_a_cpu() -> None:
    assert [path.suffix for path in DOCKERFILES] == [".cpu", ".jetson"]


@every_dockerfile
def test_only_known_instructions_are_used(path: Path) -> None:
    known = "ARG FROM RUN ENV WORKDIR COPY USER VOLUME STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD"
    assert {name for name, _ in instructions(path)} <= set(known.split())


@every_dockerfile
def test_what_is_copied_exists_and_is_let_into_the_build(path: Path) -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = {source for text in arguments(path, "COPY") for source in shlex.split(text)[:-1]}
    assert sources == admitted
    assert all((ROOT / source).exists() for source in sources)


@every_dockerfile
def test_files_named_in_commands_exist(path: Path) -> None:
    named = re.findall(r"-c (\S+\.txt)", " ".join(arguments(path, "RUN")))
    assert named and all((ROOT / name).is_file() for name in named)


@every_dockerfile
def test_the_service_does_not_run_as_root(path: Path) -> None:
    assert arguments(path, "USER") == ["10001:10001"]
    after = [name for name, _ in instructions(path)]
    assert "RUN" not in after[after.index("USER") :]


@every_dockerfile
def test_docker_asks_the_service_how_it_is(path: Path) -> None:
    [health] = arguments(path, "HEALTHCHECK")
    assert health.endswith('CMD ["edgetuner", "status"]')


@every_dockerfile
def test_what_is_downloaded_is_checked(path: Path) -> None:
    commands = " ".join(arguments(path, "RUN"))
    assert commands.count("curl") - commands.count("ca-certificates curl") == commands.count(
        "sha256sum --check --strict"
    )
    assert "http" not in commands


@every_service
def test_a_service_builds_with_arguments_its_dockerfile_knows(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT
    file = ROOT / build["dockerfile"]
    declared = {argument.partition("=")[0] for argument in arguments(file, "ARG")}
    assert set(build["args"]) <= declared


@every_service
def test_the_state_is_kept_and_the_configuration_cannot_be_written(name: str) -> None:
    *named, configuration = SERVICES[name]["volumes"]
    assert {volume.split(":")[0] for volume in named} == set(COMPOSE["volumes"])
    [declared] = arguments(ROOT / SERVICES[name]["build"]["dockerfile"], "VOLUME")
    assert f"state:{yaml.safe_load(declared)[0]}" in named
    assert configuration["target"] == "/etc/edgetuner"
    assert configuration["read_only"] is True


@every_service
def test_a_service_gives_up_what_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["profiles"] == [name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service


def test_the_groups_of_the_gpu_are_numbers() -> None:
    groups = SERVICES["jetson"]["group_add"]
    assert len(groups) == 2
    assert all(re.fullmatch(r"\$\{[A-Z_]+:-\d+\}", group) for group in groups)
