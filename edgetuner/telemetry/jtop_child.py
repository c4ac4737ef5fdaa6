"""The process that talks to jtop: `python -m edgetuner.telemetry.jtop_child INTERVAL_S`.

jtop forces the fork start method when it is imported, and its handshake waits without a limit. Here
it can do neither harm: nobody forks, and the parent kills a child that is silent for too long.

Standard output carries one JSON object a line: a reading, in jtop's own shapes and units,

    {"uptime": s, "interval": s, "power": {}, "temperature": {}, "gpu": {}, "nvpmodel": name}

or, last of all, why there are none: `{"error": text, "remedy": text, "permanent": bool}`. The child
ends when its standard input does, and so never outlives its parent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, NoReturn, TextIO

_INSTALL = "install the extra edgetuner[jetson], or choose the sysfs source"


def main(interval_s: float) -> None:
    """Write one reading an interval until the standard input ends."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    out = _private_stdout()
    sys.excepthook = lambda kind, error, trace: _unexpected(out, kind, error, trace)
    try:
        from jtop import JtopException, jtop
    except ImportError as error:
        _fail(out, f"jtop cannot be imported: {error}", _INSTALL, permanent=True)
    try:
        jetson = jtop(interval=interval_s)
        jetson.start()
        # ok(spin=False) gives up when the server, whose rate the first client fixed, is slower than
        # we asked for; so look once an interval, and let the parent judge by the uptime.
        while jetson.ok(spin=True):
            _write(out, _reading(jetson))
            time.sleep(interval_s)
    except JtopException as error:
        _fail(out, " ".join(str(error).split()), "see `systemctl status jtop`")
    _fail(out, "jtop stopped reading", "see `systemctl status jtop`")


def _reading(jetson: Any) -> dict[str, Any]:
    nvpmodel = jetson.nvpmodel
    return {
        "uptime": jetson.uptime.total_seconds(),
        "interval": jetson.interval,
        "power": jetson.power,
        "temperature": jetson.temperature,
        "gpu": {name: {"status": gpu.get("status", {})} for name, gpu in jetson.gpu.items()},
        "nvpmodel": None if nvpmodel is None else nvpmodel.name,
    }


def _private_stdout() -> TextIO:
    """Our own copy of standard output; whatever the library prints goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _write(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


def _fail(out: TextIO, error: str, remedy: str, *, permanent: bool = False) -> NoReturn:
    _write(out, {"error": error, "remedy": remedy, "permanent": permanent})
    # A plain exit would wait for the library's threads, which may hang like the library.
    os._exit(69)


def _unexpected(
    out: TextIO, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    _fail(out, f"jtop failed: {kind.__name__}: {error}", "use the sysfs source")


def _exit_with_parent() -> NoReturn:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(float(sys.argv[1]))
