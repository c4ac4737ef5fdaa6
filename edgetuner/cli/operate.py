"""`status`, `tail`, `adapt`, `pause`, `resume` and `models`: talking to a running service."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from edgetuner.cli.options import add_connection, add_json, address, command, curve
from edgetuner.cli.output import colour, show_json, table, tree
from edgetuner.errors import UnavailableError

if TYPE_CHECKING:
    from edgetuner.protocol import StatusMessage

_EVENT_COLOURS = {
    "event.drift": "yellow",
    "event.sensor_fault": "yellow",
    "event.deferred": "yellow",
    "event.swap": "green",
    "event.promoted": "green",
    "event.rollback": "red",
    "event.adaptation_failed": "red",
    "event.refused": "red",
}


def add_commands(commands: Any) -> None:
    """Adds the commands of this file."""
    _command(commands, "status", _status, "show the state of the running service")
    tail = _command(
        commands,
        "tail",
        _tail,
        "follow the status topics and events",
        "The state comes at once, then every change and a heartbeat.",
    )
    tail.add_argument(
        "topics",
        nargs="*",
        metavar="TOPIC",
        help="beginnings of topics, such as event. or prediction.watch-7 (default: status. event.)",
    )
    tail.add_argument("-n", "--count", type=int, help="end after so many messages")
    adapt = _command(
        commands,
        "adapt",
        _adapt,
        "ask for an adaptation now, drift or not",
        "Labels, memory, temperature and the gate still have their say.",
    )
    adapt.add_argument("--reason", default="asked by an operator", help="kept in the history")
    _command(commands, "pause", _pause, "start no adaptation until `resume`; predictions go on")
    _command(commands, "resume", _resume, "adapt again when it is called for")
    models = commands.add_parser("models", help="list, show, promote or roll back model versions")
    actions = models.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _command(actions, "list", _models_list, "list the versions, newest first")
    show = _command(actions, "show", _models_show, "show a version's manifest and history")
    promote = _command(actions, "promote", _models_promote, "make a version the champion, now")
    for parser in (show, promote):
        parser.add_argument("version", help="id, or champion, candidate, previous")
    rollback = _command(
        actions, "rollback", _models_rollback, "take back the version on probation, or the champion"
    )
    for parser in (promote, rollback):
        parser.add_argument("--reason", default="asked by an operator", help="kept in the history")


def _command(commands: Any, name: str, work: Any, summary: str, text: str = "") -> Any:
    parser = command(commands, name, work, summary, text)
    add_connection(parser)
    add_json(parser)
    return parser


def _call(options: argparse.Namespace, method: str, **params: Any) -> dict[str, Any]:
    from edgetuner.client import Operator

    with Operator(
        address(options, "control"), timeout_s=options.timeout, **curve(options)
    ) as operator:
        result: dict[str, Any] = operator.call(method, params)
        return result


def _show(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        show_json(result)
    else:
        print(tree(result))


def _status(options: argparse.Namespace) -> None:
    _show(options, _call(options, "status"))


def _adapt(options: argparse.Namespace) -> None:
    _show(options, _call(options, "adapt", reason=options.reason))


def _pause(options: argparse.Namespace) -> None:
    _show(options, _call(options, "pause"))


def _resume(options: argparse.Namespace) -> None:
    _show(options, _call(options, "resume"))


def _models_list(options: argparse.Namespace) -> None:
    result = _call(options, "models.list")
    if options.json:
        show_json(result)
        return
    keys = ("version", "alias", "parent", "created", "rung", "metrics", "last")
    print(table([[row.get(key) for key in keys] for row in result["versions"]], keys))


def _models_show(options: argparse.Namespace) -> None:
    _show(options, _call(options, "models.show", version=options.version))


def _models_promote(options: argparse.Namespace) -> None:
    result = _call(options, "models.promote", version=options.version, reason=options.reason)
    _show(options, result)


def _models_rollback(options: argparse.Namespace) -> None:
    _show(options, _call(options, "models.rollback", reason=options.reason))


def _tail(options: argparse.Namespace) -> None:
    from edgetuner.client import subscribe

    topics = tuple(options.topics) or ("status.", "event.")
    silence_s = max(options.timeout, 5.0)
    # Only status topics have a heartbeat: silence of any other topic is no sign of death.
    beats = any("status.".startswith(topic) or topic.startswith("status.") for topic in topics)
    count = 0
    for message in subscribe(
        address(options, "status"), topics, timeout_s=silence_s, **curve(options)
    ):
        if message is not None:
            print(_line(message, as_json=options.json), flush=True)
            count += 1
        elif beats:
            raise UnavailableError(
                "no message came",
                field="sockets.status",
                value=f"{silence_s:g} s of silence",
                remedy="is the service running? `edgetuner status`",
            )
        if count == options.count:
            return


def _line(message: StatusMessage, *, as_json: bool) -> str:
    if as_json:
        return message.model_dump_json()
    from edgetuner.log import readable

    clock = time.strftime("%H:%M:%S", time.localtime(message.t))
    topic = colour(f"{message.topic:22}", _EVENT_COLOURS.get(message.topic, "blue"))
    return f"{colour(clock, 'dim')} {topic} {readable(message.data)}"
