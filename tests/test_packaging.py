from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edgetuner

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "edgetuner"
BOARDS = {"constraints/jp62.txt": "3.10", "constraints/jp72.txt": "3.12"}

# What runs or trains a model, and the live path that stands on it. Everything else, such as the
# clients and the operators' commands, has to work where torch is not installed.
NEEDS_TORCH = re.compile(
    r"edgetuner\.(models|factories|inference|pretrain|augment|pipeline|predictor|ingest|service|replay"
    r"|serving|label_cache|doctor\.(model|rehearsal)|peft\..+|adapt\.(adam|answers|belief|coordinator|division|gradient|guess|judge|ladder"
    r"|material|observations|recall|train|versions|worker|rungs(\..+)?))"
)

# A package registry, a path of one machine, and notes that are not part of the project. The
# brackets keep this file from containing what it looks for.
FOREIGN = re.compile(
    r"py[p]i\.org|python[h]osted|download\.pytorch\.or[g]|jetson-ai-la[b]\.|deb\.deb[i]an|regis[t]ry\.npm"
    r"|/wor[k]/|/roo[t]/|bash_job[s]|\.\./share[d]/(?!data)"
)

IMPORT_ALL = """
import importlib, json, sys
sys.modules["torch"] = None
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints; warnings are errors in it as in the tests."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def modules() -> list[str]:
    paths = (path.relative_to(ROOT).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def pins(file: str, version: str) -> dict[str, str]:
    """Name to exact version of a constraints file, as Python `version` on Linux reads it."""
    environment = default_environment() | {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "sys_platform": "linux",
    }
    lines = (line.partition(" #")[0].strip() for line in (ROOT / file).read_text().splitlines())
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    chosen = [r for r in wanted if r.marker is None or r.marker.evaluate(environment)]
    names = [canonicalize_name(requirement.name) for requirement in chosen]
    assert len(names) == len(set(names)), f"{file} pins something twice for Python {version}"
    assert all(re.fullmatch(r"==[^*,]+", str(r.specifier)) for r in chosen), f"{file}: not exact"
    return dict(zip(names, (str(r.specifier)[2:] for r in chosen), strict=True))


def core_dependencies() -> list[Requirement]:
    wanted = (Requirement(line) for line in metadata.requires("edgetuner") or [])
    return [r for r in wanted if r.marker is None]


def test_the_version_is_said_once_in_two_places() -> None:
    assert edgetuner.__version__ == metadata.version("edgetuner")


def test_the_core_needs_few_packages_and_torch_is_none_of_them() -> None:
    names = {requirement.name for requirement in core_dependencies()}
    assert names == {"numpy", "pydantic", "pyyaml", "pyzmq", "safetensors"}


@pytest.mark.parametrize("module", ["edgetuner", "edgetuner.cli"])
def test_importing_it_loads_none_of_the_heavy_libraries(module: str) -> None:
    loaded = python(f"import {module}, sys; print(*sys.modules)").split()
    assert module in loaded
    assert not {"torch", "zmq", "jtop", "pyarrow", "matplotlib"} & set(loaded)


def test_what_needs_no_model_imports_without_torch() -> None:
    names = [name for name in modules() if not NEEDS_TORCH.fullmatch(name)]
    assert {"edgetuner.cli", "edgetuner.client", "edgetuner.bundle"} <= set(names)
    assert json.loads(python(IMPORT_ALL, *names)) == {}


def test_the_clients_are_loaded_on_first_use() -> None:
    seen = python(
        "import edgetuner, sys; before = 'edgetuner.client' in sys.modules;"
        "print(before, edgetuner.Client.__name__, edgetuner.AsyncClient.__name__)"
    )
    assert seen.split() == ["False", "Client", "AsyncClient"]
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = edgetuner.Cleint


def test_python_m_edgetuner_is_the_command() -> None:
    command = [sys.executable, "-m", "edgetuner", "--version"]
    seen = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert seen.stdout.split() == ["edgetuner", edgetuner.__version__]


@pytest.mark.parametrize(("file", "version"), BOARDS.items())
def test_a_board_gets_pins_that_the_project_is_tested_with(file: str, version: str) -> None:
    board, tested = pins(file, version), pins("constraints/dev.txt", version)
    jetson_stats = {"distro", "jetson-stats", "nvidia-ml-py", "smbus2"}
    assert jetson_stats < set(board)
    assert {
        name: board[name] for name in board if name not in jetson_stats
    }.items() <= tested.items()


@pytest.mark.parametrize(("file", "version"), BOARDS.items())
def test_a_board_has_a_pin_for_every_core_dependency_but_none_for_torch(
    file: str, version: str
) -> None:
    board = pins(file, version)
    for requirement in core_dependencies():
        assert requirement.specifier.contains(board[canonicalize_name(requirement.name)])
    assert "torch" not in board


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_pinned_torch_cannot_be_a_cuda_build(version: str) -> None:
    assert pins("constraints/dev.txt", version)["torch"] == "2.13.0+cpu"


def test_the_files_speak_of_the_project_alone() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # weights, pictures
            continue
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in FOREIGN.finditer(text)]
    assert found == []


def test_the_package_stays_small() -> None:
    sizes = {path: path.stat().st_size for path in tracked() if path.is_relative_to(PACKAGE)}
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    report = [f"{sizes[path] / 1e3:.0f} kB {path.relative_to(ROOT)}" for path in largest]
    # A ready-made bundle for the demo may ship with it, and takes up to 3 MB.
    assert sum(sizes.values()) < 4e6, report
