"""Options that several commands share."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgetuner.cli.output import say
from edgetuner.errors import UsageError

if TYPE_CHECKING:
    from edgetuner.config import Config

DEFAULT_CONFIG = Path("/etc/edgetuner/edgetuner.yaml")


class Help(argparse.RawDescriptionHelpFormatter):
    """Help in two columns of a readable width, commands without a heading of their own."""

    def __init__(self, prog: str) -> None:
        width = min(100, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, max_help_position=30, width=width)

    def _format_action(self, action: argparse.Action) -> str:
        text = super()._format_action(action)
        return text.partition("\n")[2] if action.nargs == argparse.PARSER else text

    def _iter_indented_subactions(
        self, action: argparse.Action
    ) -> Generator[argparse.Action, None, None]:
        yield from getattr(action, "_get_subactions", tuple)()


class Parser(argparse.ArgumentParser):
    """Complains in one line, with the exit code of sysexits."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy=f"see `{self.prog} --help`")

    def print_help(self, file: Any = None) -> None:
        say(self.format_help().rstrip())


def command(commands: Any, name: str, work: Any, summary: str, text: str = "") -> Any:
    """Adds a command; `text` is what its --help says below the summary."""
    added = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{text}".strip(),
        formatter_class=Help,
    )
    added.set_defaults(work=work)
    return added


def group(commands: Any, name: str, summary: str) -> Any:
    """Adds a command that has commands of its own, and returns where these are added."""
    added = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=Help,
    )
    return added.add_subparsers(title="commands", metavar="COMMAND", required=True)


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """A number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def add_config(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """`-c FILE`."""
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        required=required,
        help=f"configuration (default: $EDGETUNER_CONFIG or {DEFAULT_CONFIG})",
    )


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Where the service is: from its configuration, or by address and keys."""
    add_config(parser)
    parser.add_argument("--address", help="of the service's socket, instead of the configuration's")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="your .key_secret, for a socket with CURVE"
    )
    parser.add_argument(
        "--server-key", type=Path, metavar="FILE", help="the service's public .key, for CURVE"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="S", help="seconds to wait (default: 5)"
    )


def config_path(options: argparse.Namespace) -> Path:
    """The configuration's path, by option, environment or habit."""
    if options.config is not None:
        return Path(options.config)
    return Path(os.environ.get("EDGETUNER_CONFIG", DEFAULT_CONFIG))


def load(options: argparse.Namespace) -> Config:
    """The configuration."""
    from edgetuner.config import load_config

    return load_config(config_path(options))


def address(options: argparse.Namespace, socket: str) -> str:
    """The address of the `control`, `status`, `ingest` or `plain` socket."""
    if options.address:
        return str(options.address)
    from edgetuner.addresses import address_of

    found = address_of(socket, config_path(options))
    if found is None:
        raise UsageError(
            "this socket is not configured", field=f"sockets.{socket}", remedy="give --address"
        )
    return found


def curve(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of a client for CURVE; empty without --key."""
    if (options.key is None) != (options.server_key is None):
        raise UsageError(
            "--key and --server-key go together", field="--key", remedy="give both or neither"
        )
    return {} if options.key is None else {"key": options.key, "server_key": options.server_key}
