"""The command line. Only here is anything printed or the process ended; torch and zmq load where
needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from edgetuner import __version__
from edgetuner.cli import bundles, operate, recordings, serve
from edgetuner.cli.output import complain
from edgetuner.errors import EdgetunerError

_EPILOG = """\
exit codes (sysexits.h):
  0 done    64 wrong usage    65 wrong data    69 nobody answers    70 internal    73 cannot create
  74 input or output failed   75 busy, try again    76 protocol    77 not allowed    78 wrong
  configuration

environment:
  EDGETUNER_CONFIG   configuration used where -c is not given (else /etc/edgetuner/edgetuner.yaml)
  NO_COLOR           no colours
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="edgetuner",
        description="Fine-tunes a sensor CNN on the device, while it works.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"edgetuner {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (serve, operate, bundles, recordings):
        part.add_commands(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = parser().parse_args(argv)
    try:
        return int(options.work(options) or 0)
    except EdgetunerError as error:
        complain(error, as_json=getattr(options, "json", False))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `edgetuner tail | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
