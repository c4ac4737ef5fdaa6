"""`status`, `tail`, `adapt`, `pause`, `resume` and `models`: talking to a running service."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgetuner.cli.digest import digest
from edgetuner.cli.options import add_connection, add_json, address, command, count, curve, group
from edgetuner.cli.output import colour, say, say_json
from edgetuner.cli.overview import overview
from edgetuner.cli.versions import version_page, version_table
from edgetuner.errors import UnavailableError

if TYPE_CHECKING:
    from edgetuner.protocol import StatusMessage

_COUNTS_S = 10.0  # between two lines about an adaptation that waits for labels, say
_MISSED_BEATS = 5
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
        "The state comes at once, then whatever changes. It ends with code 69 when the service\n"
        "falls silent. With --json every message is shown as it came, the heartbeat too.",
    )
    tail.add_argument(
        "topics",
        nargs="*",
        metavar="TOPIC",
        help="beginnings of topics, such as event. or prediction.watch-7 (default: status. event.)",
    )
    tail.add_argument("-n", "--count", type=count, metavar="N", help="end after so many lines")
    adapt = _command(
        commands,
        "adapt",
        _adapt,
        "ask for an adaptation now, drift or not",
        "Labels, memory, temperature and the gate still have their say.",
    )
    adapt.add_argument("--reason", default="asked by an operator", help="kept in the history")
    adapt.add_argument(
        "--trust-labels",
        action="store_true",
        help="believe the labels, even where they contradict the model",
    )
    _command(commands, "pause", _pause, "start no adaptation until `resume`; predictions go on")
    _command(commands, "resume", _resume, "adapt again when it is called for")
    actions = group(commands, "models", "list, show, promote or roll back model versions")
    _command(actions, "list", _models_list, "list the versions, newest first")
    show = _command(actions, "show", _models_show, "show what a version is, and its history")
    promote = _command(actions, "promote", _models_promote, "make a version the champion, now")
    for parser in (show, promote):
        parser.add_argument("version", help="its id, or an alias, such as champion or previous")
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


def _say(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    if options.json:
        say_json(result)
    else:
        say(text)


def _status(options: argparse.Namespace) -> None:
    result = _call(options, "status")
    _say(options, result, overview(result))


def _adapt(options: argparse.Namespace) -> None:
    result = _call(options, "adapt", reason=options.reason, trust_labels=options.trust_labels)
    _say(options, result, "asked for; `edgetuner status` shows when it begins, or why it waits")


def _pause(options: argparse.Namespace) -> None:
    result = _call(options, "pause")
    _say(options, result, digest("status.adaptation", result))


def _resume(options: argparse.Namespace) -> None:
    result = _call(options, "resume")
    _say(options, result, digest("status.adaptation", result))


def _models_list(options: argparse.Namespace) -> None:
    result = _call(options, "models.list")
    _say(options, result, version_table(result["versions"]))


def _models_show(options: argparse.Namespace) -> None:
    result = _call(options, "models.show", version=options.version)
    _say(options, result, version_page(result))


def _models_promote(options: argparse.Namespace) -> None:
    result = _call(options, "models.promote", version=options.version, reason=options.reason)
    _say(options, result, f"{result['champion']} is champion, and live")


def _models_rollback(options: argparse.Namespace) -> None:
    result = _call(options, "models.rollback", reason=options.reason)
    _say(options, result, f"{result['live']} is live again")


def _tail(options: argparse.Namespace) -> None:
    from edgetuner.client import subscribe

    topics = tuple(options.topics) or ("status.", "event.")
    messages = subscribe(
        address(options, "status"), topics, timeout_s=options.timeout, **curve(options)
    )
    lines = _as_json if options.json else _as_text
    for line in itertools.islice(
        lines(_while_alive(messages, topics, options.timeout)), options.count
    ):
        say(line)


def _as_json(messages: Iterable[StatusMessage]) -> Iterator[str]:
    return (message.model_dump_json() for message in messages)


def _as_text(messages: Iterable[StatusMessage]) -> Iterator[str]:
    """A line a message; none for a state that is as it was, which would hide what happens, nor for
    an adaptation of which only numbers are others, more often than every so many seconds.
    """
    shown: dict[str, str] = {}
    adaptation, told_s = "", 0.0
    for message in messages:
        clock = colour(time.strftime("%H:%M:%S", time.localtime(message.t)), "dim")
        parts = (
            message.data if message.topic == "status.snapshot" else {message.topic: message.data}
        )
        for topic, data in parts.items():
            text = digest(topic, data)
            if topic.startswith("status.") and shown.get(topic) == text:
                continue
            if topic == "status.adaptation":
                wording = "".join(character for character in text if not character.isdigit())
                if wording == adaptation and message.t - told_s < _COUNTS_S:
                    continue
                adaptation, told_s = wording, message.t
            shown[topic] = text
            yield f"{clock} {colour(f'{topic:24}', _EVENT_COLOURS.get(topic, 'blue'))} {text}"


def _while_alive(
    messages: Iterator[StatusMessage | None], topics: Sequence[str], timeout_s: float
) -> Iterator[StatusMessage]:
    """The messages, until the service is silent for longer than its heartbeat allows."""
    # Only status topics have a heartbeat: silence of any other topic is no sign of death.
    beats = any("status.".startswith(topic) or topic.startswith("status.") for topic in topics)
    patience_s, silence_s = timeout_s, 0.0
    for message in messages:
        if message is not None:
            silence_s = 0.0
            patience_s = max(patience_s, _MISSED_BEATS * _heartbeat_s(message))
            yield message
            continue
        silence_s += timeout_s
        if beats and silence_s >= patience_s:
            raise UnavailableError(
                "no message came",
                field="sockets.status",
                value=f"{silence_s:g} s of silence",
                remedy="is the service running? `edgetuner status`",
            )


def _heartbeat_s(message: StatusMessage) -> float:
    state = message.data.get("status.state", message.data)
    return float(state.get("heartbeat_s", 0.0)) if isinstance(state, dict) else 0.0
