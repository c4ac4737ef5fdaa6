"""`python -m edgetuner ...` as a child process, the way a person or a script runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0  # the end of hope, not a measurement

_REPORT = """
import sys
from edgetuner.cli import main
code = main(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def edgetuner(
    *arguments: object, environment: Mapping[str, str] | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return _run([sys.executable, "-m", "edgetuner", *map(str, arguments)], environment, folder)


def answer(*arguments: object, **how: Any) -> Any:
    """What a command that succeeds says with --json."""
    done = edgetuner(*arguments, "--json", **how)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def complaint(code: int, *arguments: object, **how: Any) -> str:
    """The one line on standard error of a command that fails with `code`."""
    done = edgetuner(*arguments, **how)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("edgetuner: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def imported(*arguments: object) -> set[str]:
    """The modules that a command that succeeds has imported."""
    done = _run([sys.executable, "-c", _REPORT, *map(str, arguments)], None, ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def _run(
    command: list[str], environment: Mapping[str, str] | None, folder: Path
) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "EDGETUNER_CONFIG"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=folder,
        env={**known, "PYTHONPATH": str(ROOT), **(environment or {})},
    )
