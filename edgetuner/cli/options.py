"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetuner.errors import UsageError

if TYPE_CHECKING:
    from edgetuner.config import Config

DEFAULT_CONFIG = Path("/etc/edgetuner/edgetuner.yaml")


def command(commands: Any, name: str, work: Any, summary: str, text: str = "") -> Any:
    """Adds a command; `text` is what its --help says below the summary."""
    added = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {text}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(work=work)
    return added


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
        help=f"configuration (default: $EDGETUNER_CONFIG, else {DEFAULT_CONFIG})",
    )


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Where the service is: from its configuration, or by address and keys."""
    add_config(parser)
    parser.add_argument("--address", help="of the socket, instead of the configuration's")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="your .key_secret, for a socket with CURVE"
    )
    parser.add_argument(
        "--server-key", type=Path, metavar="FILE", help="the service's public .key, for CURVE"
    )
    parser.add_argument(
        "--timeout", type=float, default=5.0, metavar="S", help="seconds to wait (default: 5)"
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
    found = getattr(load(options).sockets, socket)
    if found is None:
        raise UsageError(
            "this socket is not configured", field=f"sockets.{socket}", remedy="give --address"
        )
    return str(found)


def curve(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of a client for CURVE; empty without --key."""
    if (options.key is None) != (options.server_key is None):
        raise UsageError(
            "--key and --server-key go together", field="--key", remedy="give both or neither"
        )
    return {} if options.key is None else {"key": options.key, "server_key": options.server_key}
