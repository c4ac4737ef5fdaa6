"""The command line. Only here is anything printed or the process ended; torch and zmq load where
needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from edgetuner import __version__
from edgetuner.cli import bundles, doctor, operate, recordings, serve
from edgetuner.cli.options import Help, Parser
from edgetuner.cli.output import complain
from edgetuner.errors import EdgetunerError, missing_torch

_EPILOG = """\
exit codes (sysexits.h):
  0   done                      74  input or output failed
  64  wrong usage               75  busy, try again
  65  wrong data                76  protocol
  69  nobody answers            77  not allowed
  70  internal                  78  wrong configuration

environment:
  EDGETUNER_CONFIG   configuration used where -c is not given
                     (else /etc/edgetuner/edgetuner.yaml)
  NO_COLOR           no colours
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="edgetuner",
        description="Fine-tunes a sensor CNN on the device, while it works.",
        epilog=_EPILOG,
        formatter_class=Help,
    )
    top.add_argument("--version", action="version", version=f"edgetuner {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (serve, doctor, operate, bundles, recordings):
        part.add_commands(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    # What else is installed must not change what is valid; and looking for it takes 40 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        options = parser().parse_args(arguments)
        options.work(options)
        return 0
    except EdgetunerError as error:
        complain(error, as_json="--json" in arguments)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        missing = missing_torch()
        complain(missing, as_json="--json" in arguments)
        return missing.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `edgetuner tail | head`
        return 0
