"""`simulate` and `replay`: recorded windows as a sensor would send them, with and without
sockets.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetuner.cli.options import (
    add_config,
    add_connection,
    add_json,
    address,
    command,
    curve,
    load,
)
from edgetuner.cli.output import show_json, table
from edgetuner.errors import UsageError

if TYPE_CHECKING:
    from edgetuner.data import WindowSet
    from edgetuner.simulate import Outcome, Script

_PHASES = """\
A phase selects windows of the recording by its own arrays: `--phase position=right_wrist
--phase position=left_wrist` sends all of the first, then all of the second. `--select` holds for
all.
"""


def add_commands(commands: Any) -> None:
    """Adds the commands of this file."""
    simulate = command(
        commands,
        "simulate",
        _simulate,
        "send a recording as sensors would, drift by script",
        _PHASES,
    )
    add_connection(simulate)
    simulate.add_argument(
        "--by", metavar="GROUP", help="a client for each value of this array, such as subject"
    )
    simulate.add_argument(
        "--rate", type=float, default=10.0, help="windows/s of each client (default: 10)"
    )
    simulate.add_argument("--stream", default="imu", help="name of the stream (default: imu)")
    replay = command(
        commands,
        "replay",
        _replay,
        "run a recording through store, model, detectors and training, without sockets",
        _PHASES,
    )
    add_config(replay)
    replay.add_argument(
        "--state-dir", type=Path, help="keep versions and jobs here (default: they are removed)"
    )
    for parser in (simulate, replay):
        parser.add_argument("recording", type=Path, help="window set, .npz")
        parser.add_argument("--select", default="", metavar="SELECTORS")
        parser.add_argument("--phase", action="append", default=[], metavar="SELECTORS")
        parser.add_argument(
            "--bout", type=int, default=8, help="windows of one class in a row (default: 8)"
        )
        parser.add_argument(
            "--labels", type=float, default=0.3, help="share that gets a label (default: 0.3)"
        )
        parser.add_argument(
            "--label-delay", type=int, default=5, help="windows before its label (default: 5)"
        )
        parser.add_argument(
            "--hop", type=float, metavar="S", help="seconds between windows (default: their length)"
        )
        parser.add_argument("--seed", type=int, default=0, help="of the labels (default: 0)")
        add_json(parser)


def _simulate(options: argparse.Namespace) -> None:
    from edgetuner.client import Client
    from edgetuner.simulate import simulate

    phases = _phases(options)
    by_client = _by_client(phases, options.by)
    where, keys = address(options, "ingest"), curve(options)
    clients = {}
    try:
        for name in by_client:
            clients[name] = Client(where, name, predictions=True, **keys)
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
            "windows": sum(sent.phase == number for sent in outcome.sent),
            "predicted": sum(s.phase == number and s.predicted is not None for s in outcome.sent),
            "accuracy": outcome.accuracy(windows.classes, number),
        }
        for number, windows in enumerate(phases)
    ]
    if options.json:
        show_json(
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
    print(table([list(row.values()) for row in rows], list(rows[0])))
    if outcome.refusals:
        print(f"{len(outcome.refusals)} refused, the first: {outcome.refusals[0]['message']}")


def _replay(options: argparse.Namespace) -> None:
    import asyncio
    import tempfile

    from edgetuner.log import readable
    from edgetuner.replay import replay

    def tell(window: int, topic: str, data: dict[str, Any]) -> None:
        if not options.json:
            print(f"{window:7} {topic.removeprefix('event.'):20} {readable(data)}", flush=True)

    config, phases, script = load(options), _phases(options), _script(options, None)
    with tempfile.TemporaryDirectory(prefix="edgetuner-replay-") as scratch:
        state_dir = options.state_dir or Path(scratch)
        report = asyncio.run(replay(config, phases, script, state_dir, tell)).to_wire()
    if options.json:
        show_json(report)
        return
    rows = report["phases"]
    print(table([list(row.values()) for row in rows], list(rows[0])))


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
