"""`run` and `validate-config`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgetuner.cli.options import add_config, add_json, command, config_path, load
from edgetuner.cli.output import say, say_json


def add_commands(commands: Any) -> None:
    """Adds the commands of this file."""
    run = command(
        commands,
        "run",
        _run,
        "run the service",
        "SIGTERM drains and ends it, SIGHUP reloads the configuration.",
    )
    add_config(run)
    validate = command(
        commands, "validate-config", _validate, "check a configuration and show it in full"
    )
    validate.add_argument("file", nargs="?", type=Path, help="the configuration")
    add_config(validate)
    add_json(validate)


def _run(options: argparse.Namespace) -> None:
    import asyncio

    from edgetuner.service import Service

    asyncio.run(Service(load(options), config_path(options)).run())


def _validate(options: argparse.Namespace) -> None:
    import yaml

    if options.file is not None:
        options.config = options.file
    config = load(options).model_dump(mode="json")
    if options.json:
        say_json(config)
    else:
        say(yaml.safe_dump(config, sort_keys=False).rstrip())
