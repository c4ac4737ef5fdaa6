"""Two people exercise with a watch, move it to the other wrist, and the service follows.

    python -m demo [--rate WINDOWS_PER_SECOND] [--out FOLDER]

The service is a process of its own and is spoken to through its sockets alone. Its first model has
seen eight other people, right wrist only (`python -m demo.bundle` made it). What comes out lies in
`build/demo/`: summary.json, f1.png, the service's log and state.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo.picture import draw
from demo.recordings import watch_windows
from demo.screen import Screen
from demo.service import RunningService
from demo.summary import broken_promises, summarise, table
from edgetuner.client import Client
from edgetuner.data import WindowSet
from edgetuner.errors import EdgetunerError
from edgetuner.simulate import Script, simulate

HERE = Path(__file__).parent
PEOPLE = (7, 10)  # exercised side by side, so both are kept out of the source
RIGHT, LEFT = 1, 0
HOP_S = 1.28  # the recordings are cut every 64 samples at 50 Hz


def main() -> int:
    """Runs the demo; 0 if every promise was kept."""
    options = _options()
    try:
        return _run(options)
    except EdgetunerError as error:
        print(
            f"\ndemo: {error}\ndemo: the service's log is {options.out}/service.log",
            file=sys.stderr,
        )
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    start = time.monotonic()
    _clear(options.out)
    windows = watch_windows()
    phases = {f"watch-{person}": _phases(windows, person) for person in PEOPLE}
    script = Script(bout=8, label_share=0.3, label_delay=8, rate=options.rate, hop_s=HOP_S)
    with tempfile.TemporaryDirectory(prefix="edgetuner-") as sockets:
        service = RunningService(HERE.parent / "configs/demo.yaml", options.out, Path(sockets))
        with service:
            screen = Screen(windows.classes, service.events, sum(map(_count, phases.values())))
            clients = {name: Client(service.ingest, name, predictions=True) for name in phases}
            try:
                outcome = simulate(clients, phases, script, on_step=screen.update)
            finally:
                for client in clients.values():
                    client.close()
            status = service.status()
        screen.end()
    summary = summarise(outcome, windows.classes, service.events, status)
    summary["exit_code"] = service.exit_code
    summary["wall_seconds"] = round(time.monotonic() - start, 1)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(outcome, windows.classes, service.events, options.out / "f1.png")
    print(table(summary))
    print(f"\n{options.out}/summary.json   {options.out}/f1.png")
    return _verdict(summary)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=3.2, help="windows/s of each person")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    return parser.parse_args()


def _phases(windows: WindowSet, person: int) -> list[WindowSet]:
    return [windows.select(subject=person, position=position) for position in (RIGHT, LEFT)]


def _count(phases: list[WindowSet]) -> int:
    return sum(map(len, phases))


def _clear(folder: Path) -> None:
    """Removes what an earlier run left, and nothing else: the folder may be anybody's."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "state", ignore_errors=True)
    for name in ("edgetuner.yaml", "service.log", "summary.json", "f1.png"):
        (folder / name).unlink(missing_ok=True)


def _verdict(summary: dict[str, Any]) -> int:
    """1 and a line for each promise that was broken."""
    broken = broken_promises(summary)
    for name in broken:
        print(f"demo: not kept: {name}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
