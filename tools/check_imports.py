"""Holds the shape of the code.

Imports run downward, torch, zmq and jtop stay in few files, and nothing that arrives is run.

    python tools/check_imports.py [FOLDER]

Prints one line per violation and exits 1, or the size of the package and exits 0. Imports count
wherever they stand, inside a function or under TYPE_CHECKING too: a name that is only needed there
is a dependency all the same.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

# From the top down. A room is a file or a folder of the package; it may import what lies below it,
# and beside it as long as that makes no circle. On the ground floor nobody imports a neighbour.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli"}),
    frozenset({"service", "replay", "simulate", "doctor"}),
    frozenset({"pipeline", "adapt", "client", "ingest", "control", "publisher", "predictor"}),
    frozenset(
        {
            "store",
            "inference",
            "serving",
            "corrections",
            "label_cache",
            "registry",
            "transport",
            "connect",
            "pretrain",
        }
    ),
    frozenset({"bundle", "protocol", "config", "data", "recordings", "factories", "augment"}),
    frozenset(
        {"peft", "drift", "telemetry", "models", "metrics", "notify", "log", "addresses", "frames"}
        | {"heap"}
    ),
    frozenset({"errors"}),
)
GROUND = FLOORS[-2]
# The package itself hands out the client on first use.
ROOT = "__init__"

OWNERS: dict[str, tuple[str, ...]] = {
    "torch": (
        "models.py",
        "inference.py",
        "pretrain.py",
        "factories.py",
        "augment.py",
        "peft/*.py",
        "adapt/adam.py",
        "adapt/gradient.py",
        "adapt/worker.py",
        "adapt/ladder.py",
        "adapt/material.py",
        "adapt/rungs/*.py",
        "adapt/train.py",
    ),
    "zmq": ("transport.py", "connect.py"),
    # Its import sets the start method of all child processes: it is shut into one of its own.
    "jtop": ("telemetry/jtop_child.py",),
}

FORBIDDEN_MODULES = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
FORBIDDEN_CALLS = frozenset({"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load"})
FORBIDDEN_METHODS = frozenset({"read_pickle", "recv_pyobj", "send_pyobj"})
# Keyword arguments that open a safe reader to objects, and the only value they may have.
GUARDED_KEYWORDS = {"allow_pickle": False, "weights_only": True}


@dataclass(frozen=True)
class Source:
    """One file of the package; `path` is relative to the package's folder."""

    path: PurePosixPath
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        """The first part of the path, without a suffix."""
        return self.path.parts[0].removesuffix(".py")


def check(package: Path) -> list[str]:
    """Every violation in the folder `package`, as lines of the form `file:line: what is wrong`."""
    sources = read(package)
    found = {line for source in sources for line in violations(source, package.name)}
    return sorted(found) + circles(sources, package.name)


def read(package: Path) -> list[Source]:
    def source(path: Path) -> Source:
        text = path.read_text(encoding="utf-8")
        relative = PurePosixPath(path.relative_to(package).as_posix())
        return Source(relative, ast.parse(text, str(path)), text.count("\n"))

    return [source(path) for path in sorted(package.rglob("*.py"))]


def violations(source: Source, package: str) -> Iterator[str]:
    for line, message in (*_imports_upward(source, package), *_strangers(source), *_unsafe(source)):
        yield f"{package}/{source.path}:{line}: {message}"


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module imported; `from a import b` counts as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def rooms(source: Source, package: str) -> Iterator[tuple[int, str]]:
    """Line and room of every import from the package itself, its own room left out."""
    for line, name in imported(source.tree):
        root, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        if root == package and room not in (source.room, "__version__"):
            yield line, room


def circles(sources: list[Source], package: str) -> list[str]:
    """The first circle of rooms that import each other, if there is one."""
    graph: dict[str, set[str]] = {}
    for source in sources:
        if source.room != ROOT:
            graph.setdefault(source.room, set()).update(room for _, room in rooms(source, package))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"{package}: rooms import each other in a circle: {' <- '.join(error.args[1])}"]
    return []


def _imports_upward(source: Source, package: str) -> Iterator[tuple[int, str]]:
    here = _floor(source.room)
    if source.room == ROOT:
        return
    if here is None:
        yield 1, f"{source.room} stands on no floor; enter it in FLOORS of tools/check_imports.py"
        return
    for line, room in rooms(source, package):
        there = _floor(room)
        if there is None:
            yield line, f"imports {room}, which stands on no floor"
        elif there < here:
            yield line, f"{source.room} imports {room}, which lies above it"
        elif there == here and source.room in GROUND:
            yield (
                line,
                f"{source.room} imports {room}: on the ground floor nobody knows a neighbour",
            )


def _floor(room: str) -> int | None:
    return next((level for level, names in enumerate(FLOORS) if room in names), None)


def _strangers(source: Source) -> Iterator[tuple[int, str]]:
    for line, name in imported(source.tree):
        root = name.partition(".")[0]
        if name.startswith("."):
            yield line, "imports relatively; name the module in full"
        elif root in FORBIDDEN_MODULES:
            yield line, f"imports {root}, which can run what it reads"
        elif root in OWNERS and not _owns(source.path, root):
            yield line, f"imports {root}, which belongs in {', '.join(OWNERS[root])}"


def _owns(path: PurePosixPath, library: str) -> bool:
    return any(fnmatchcase(str(path), owner) for owner in OWNERS[library])


def _unsafe(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in FORBIDDEN_CALLS or name.rpartition(".")[2] in FORBIDDEN_METHODS:
            yield node.lineno, f"calls {name}, which can run what it reads"
        for keyword in node.keywords:
            allowed = GUARDED_KEYWORDS.get(keyword.arg or "")
            if allowed is not None and getattr(keyword.value, "value", None) is not allowed:
                yield node.lineno, f"{name} may only have {keyword.arg}={allowed}"


def size(package: Path) -> str:
    sources = read(package)
    largest = max(sources, key=lambda source: source.lines)
    lines = sum(source.lines for source in sources)
    return (
        f"{package.name}: {len(sources)} files, {lines} lines, "
        f"the largest {largest.path} with {largest.lines}"
    )


def main(arguments: list[str]) -> int:
    package = Path(arguments[0]) if arguments else Path(__file__).parents[1] / "edgetuner"
    found = check(package)
    print("\n".join(found) if found else size(package))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
