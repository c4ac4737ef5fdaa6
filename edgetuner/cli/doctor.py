"""`doctor`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from edgetuner.cli.options import add_config, add_json, command, config_path
from edgetuner.cli.output import colour, say, say_json

if TYPE_CHECKING:
    from edgetuner.doctor import Diagnosis

_COLOURS = {"ok": "green", "note": "yellow", "trouble": "red"}
_WIDTH = 18  # of the name of a check


def add_commands(commands: Any) -> None:
    """Adds the command of this file."""
    doctor = command(
        commands,
        "doctor",
        _doctor,
        "try what the service needs: board, disk, sockets, model, training",
        "Nothing is changed and nothing kept, and it may run beside the service; best as the\n"
        "service's user. It ends with the exit code of the first trouble; notes are none.",
    )
    doctor.add_argument(
        "--no-training",
        dest="training",
        action="store_false",
        help="rehearse no adaptation, which takes memory and some seconds",
    )
    add_config(doctor)
    add_json(doctor)


def _doctor(options: argparse.Namespace) -> None:
    from edgetuner.doctor import examine

    found = []
    for one in examine(config_path(options), training=options.training):
        found.append(one)
        if not options.json:
            say(_line(one))
    troubles = [one.error for one in found if one.state == "trouble" and one.error is not None]
    if options.json:
        say_json({"well": not troubles, "checks": [one.to_wire() for one in found]})
    else:
        counts = Counter(one.state for one in found)
        say(f"{counts['ok']} ok, {counts['note']} noted, {counts['trouble']} in trouble")
    if troubles:
        raise troubles[0]


def _line(one: Diagnosis) -> str:
    return (
        f"{colour(one.state.ljust(7), _COLOURS[one.state])}  {one.check.ljust(_WIDTH)}  {one.said}"
    )
