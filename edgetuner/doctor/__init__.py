"""Whether everything that the service needs is there and works, told before it is needed.

What depends on the board (a GPU that runs a convolution, rails that can be read, memory, a disk
that keeps what it confirms) is tried and not asked for, with the service's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from edgetuner.config import Config, load_config
from edgetuner.doctor.diagnosis import Diagnosis, State
from edgetuner.errors import EdgetunerError, StoreError, missing_torch

__all__ = ["Diagnosis", "State", "examine"]

Check = Callable[[], Diagnosis | Iterable[Diagnosis]]


def examine(path: Path, *, training: bool = True, sysroot: Path = Path("/")) -> Iterator[Diagnosis]:
    """All checks, one after the other, each told as soon as it is done.

    Args:
        path: of the configuration.
        training: whether an adaptation is rehearsed, which takes memory and some seconds.
        sysroot: where /sys, /proc, /etc and /var are looked up.
    """
    try:
        config, wrong = load_config(path), None
    except EdgetunerError as error:
        config, wrong = Config(), error
    for name, check in _of_the_board(config, sysroot).items():
        yield from _told(name, check)
    if wrong is not None:  # and nothing can be said of what it names
        yield Diagnosis.of("configuration", wrong)
        return
    yield Diagnosis("configuration", "ok", str(path))
    for name, check in _of_the_service(config, sysroot, training).items():
        yield from _told(name, check)


def _told(name: str, check: Check) -> Iterator[Diagnosis]:
    try:
        found = check()
        yield from [found] if isinstance(found, Diagnosis) else found
    except EdgetunerError as error:
        yield Diagnosis.of(name, error)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        yield Diagnosis.of(name, missing_torch())
    except OSError as error:  # no room, or no right
        failed = StoreError("cannot be tried", field=error.filename, value=error.strerror)
        yield Diagnosis.of(name, failed)


def _of_the_board(config: Config, sysroot: Path) -> dict[str, Check]:
    from edgetuner.doctor import board

    return {
        "board": lambda: board.board(sysroot),
        "clock": lambda: board.clock(sysroot),
        "memory": lambda: board.memory(config, sysroot),
        "heat": lambda: board.heat(config, sysroot),
        "telemetry": lambda: board.telemetry(config, sysroot),
    }


def _of_the_service(config: Config, sysroot: Path, training: bool) -> dict[str, Check]:
    from edgetuner.doctor import place

    checks: dict[str, Check] = {
        "state_dir": lambda: place.state_dir(config),
        "sockets": lambda: place.sockets(config),
        "device": lambda: _with_torch("model").device(config),
        "bundle": lambda: _with_torch("model").bundle(config),
        "model": lambda: _with_torch("model").model(config),
        "training": lambda: _with_torch("rehearsal").rehearsal(config, sysroot),
    }
    return checks if training else {name: checks[name] for name in checks if name != "training"}


def _with_torch(name: str) -> Any:
    """`model` or `rehearsal`, which cannot be imported where torch is missing."""
    from edgetuner.doctor import model, rehearsal

    return {"model": model, "rehearsal": rehearsal}[name]
