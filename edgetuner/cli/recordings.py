"""`simulate` and `replay`: recorded windows as a sensor would send them, with and without
sockets.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetuner.cli.digest import digest
from edgetuner.cli.options import (
    add_config,
    add_connection,
    add_json,
    address,
    command,
    count,
    curve,
    load,
)
from edgetuner.cli.output import say, say_json, table
from edgetuner.errors import UsageError

if TYPE_CHECKING:
    from edgetuner.data import WindowSet
    from edgetuner.simulate import Outcome, Script

_PHASES = """\
A phase selects windows of the recording by its own arrays:

  --phase position=right_wrist --phase position=left_wrist

plays all of the first, then all of the second. Windows go out in bouts that rotate through
the classes, in time order within each; their labels follow later."""


def add_commands(commands: Any) -> None:
    """Adds the commands of this file."""
    simulate = command(
        commands, "simulate", _simulate, "send a recording as sensors would, with drift", _PHASES
    )
    _add_recording(simulate)
    simulate.add_argument(
        "--by", metavar="GROUP", help="a client for each value of this array, such as subject"
    )
    simulate.add_argument(
        "--rate",
        type=float,
        default=10.0,
        metavar="N",
        help="windows a second of each client (default: 10)",
    )
    simulate.add_argument(
        "--stream", default="imu", metavar="NAME", help="of each client (default: imu)"
    )
    add_connection(simulate)
    replay = command(
        commands,
        "replay",
        _replay,
        "run a recording through the whole loop, without a service",
        "Store, model, detectors, training and gate are those of the service, and time is the\n"
        f"recording's own.\n\n{_PHASES}",
    )
    _add_recording(replay)
    replay.add_argument(
        "--state-dir",
        type=Path,
        metavar="FOLDER",
        help="keep versions and jobs here (default: they are removed)",
    )
    add_config(replay)
    for parser in (simulate, replay):
        add_json(parser)


def _add_recording(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("recording", type=Path, help="window set, .npz")
    add("--phase", action="append", default=[], metavar="SELECTORS", help="may be given repeatedly")
    add("--select", default="", metavar="SELECTORS", help="holds for all phases")
    add(
        "--bout",
        type=count,
        default=8,
        metavar="N",
        help="windows of a class in a row (default: 8)",
    )
    add(
        "--labels",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="of the windows that get a label (default: 0.3)",
    )
    add(
        "--label-delay",
        type=int,
        default=5,
        metavar="N",
        help="windows between one and its label (default: 5)",
    )
    add(
        "--hop",
        type=float,
        metavar="S",
        help="seconds from one window's start to the next (default: a window's length)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the choice of labels (default: 0)")


def _simulate(options: argparse.Namespace) -> None:
    from edgetuner.client import Client
    from edgetuner.simulate import simulate

    phases = _phases(options)
    by_client = _by_client(phases, options.by)
    where, keys = address(options, "ingest"), curve(options)
    clients = {}
    try:
        for name in by_client:
            clients[name] = Client(where, name, predictions=True, timeout=options.timeout, **keys)
        outcome = simulate(
            clients, by_client, _script(options, options.rate), stream=options.stream
        )
    finally:
        for client in clients.values():
            client.close()
    _show(options, outcome, phases)


def _show(options: argparse.Namespace, outcome: Outcome, phases: list[WindowSet]) -> None:
    rows = [
        {
            "phase": number,
            "selected": name,
            "windows": sum(sent.phase == number for sent in outcome.sent),
            "predicted": sum(s.phase == number and s.predicted is not None for s in outcome.sent),
            "accuracy": outcome.accuracy(windows.classes, number),
            "macro_f1": outcome.macro_f1(windows.classes, number),
        }
        for number, (name, windows) in enumerate(zip(_names(options), phases, strict=True))
    ]
    if options.json:
        say_json(
            {
                "windows": len(outcome.sent),
                "acked": outcome.acked,
                "predictions": outcome.predictions,
                "duplicates": outcome.duplicates,
                "refusals": outcome.refusals,
                "seconds": round(outcome.seconds, 3),
                "phases": rows,
            }
        )
        return
    say(table([list(row.values()) for row in rows], list(rows[0])))
    if outcome.refusals:
        say(f"{len(outcome.refusals)} refused, the first: {outcome.refusals[0]['message']}")


def _replay(options: argparse.Namespace) -> None:
    import asyncio
    import tempfile

    from edgetuner.replay import replay

    def tell(window: int, topic: str, data: dict[str, Any]) -> None:
        if not options.json:
            say(f"{window:7} {topic.removeprefix('event.'):20} {digest(topic, data)}")

    config, phases, script = load(options), _phases(options), _script(options, None)
    with tempfile.TemporaryDirectory(prefix="edgetuner-replay-") as scratch:
        state_dir = options.state_dir or Path(scratch)
        report = asyncio.run(replay(config, phases, script, state_dir, tell)).to_wire()
    names = _names(options)
    rows = [
        {"phase": row["phase"], "selected": names[row["phase"]], **row} for row in report["phases"]
    ]
    if options.json:
        say_json(report | {"phases": rows})
        return
    say(table([list(row.values()) for row in rows], list(rows[0])))


def _script(options: argparse.Namespace, rate: float | None) -> Script:
    from edgetuner.simulate import Script

    return Script(
        bout=options.bout,
        label_share=options.labels,
        label_delay=options.label_delay,
        rate=rate,
        hop_s=options.hop,
        seed=options.seed,
    )


def _names(options: argparse.Namespace) -> list[str]:
    """What each phase was selected by, as it was written."""
    return [phase or "all" for phase in options.phase or [""]]


def _phases(options: argparse.Namespace) -> list[WindowSet]:
    from edgetuner.data import load as load_windows
    from edgetuner.data import parse_selectors

    windows = load_windows(options.recording).select(**parse_selectors(options.select))
    return [windows.select(**parse_selectors(phase)) for phase in options.phase or [""]]


def _by_client(phases: list[WindowSet], group: str | None) -> dict[str, list[WindowSet]]:
    if group is None:
        return {"simulator": phases}
    values = sorted({int(v) for windows in phases for v in windows.groups.get(group, [])})
    if not values:
        raise UsageError(
            "no such array",
            field="--by",
            value=group,
            remedy=f"use one of {list(phases[0].groups)}",
        )
    return {f"{group}-{v}": [windows.select(**{group: v}) for windows in phases] for v in values}
