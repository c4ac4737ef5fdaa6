"""Where the service lives: its folder, how long a durable commit takes there, its sockets."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgetuner.client.operator import Operator
from edgetuner.config import Config
from edgetuner.doctor.diagnosis import Diagnosis
from edgetuner.errors import AccessError, StoreError
from edgetuner.store import Entry, Store
from edgetuner.transport import ROUTER, SUB, XPUB, Sockets

_MB = 1024 * 1024
_COMMITS, _BATCH = 20, 8
_ANSWER_S = 2.0


def running(config: Config) -> bool:
    """Whether a service holds the state directory."""
    try:
        lock = os.open(config.state_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def state_dir(config: Config) -> Iterator[Diagnosis]:
    """Whether the folder can be used, by whom, and how soon it has a window on disk.

    Nothing is left in it: what root made there would be in the service's way.
    """
    folder = config.state_dir
    there = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    facts: dict[str, Any] = {"path": str(folder), "free_bytes": shutil.disk_usage(there).free}
    about = there.stat()
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        error = StoreError(
            "cannot be written by whoever runs this",
            field="state_dir",
            value=str(there),
            remedy=f"run it as the service does: sudo -u {_owner(about)} edgetuner doctor",
        )
        yield Diagnosis.of("state_dir", error, facts)
        return
    if there == folder and about.st_mode & stat.S_IRWXO:
        loose = AccessError(
            "others than the service's group get at what sensors sent",
            field="state_dir",
            value=stat.filemode(about.st_mode),
            remedy=f"chmod o= {folder}",
        )
        yield Diagnosis.of("state_dir", loose, facts)
    elif config.store.durability != "memory" and _room(config) < config.store.max_mb * _MB:
        error = StoreError(
            "the disk has less room than the store may take",
            field="store.max_mb",
            value=f"{config.store.max_mb} MB, {facts['free_bytes'] // _MB} MB are free",
            remedy="free some disk space, or lower it",
        )
        yield Diagnosis.of("state_dir", error, facts)
    else:
        whose = f"{there}, of {_owner(about)}" + ("" if there == folder else ", will be made in it")
        said = f"{whose}, {facts['free_bytes'] / 1e9:.1f} GB free"
        yield Diagnosis("state_dir", "ok", said, facts)
    if config.store.durability != "memory":
        yield _commits(config, there)


def _room(config: Config) -> int:
    """Bytes that the store has or can have."""
    files = (config.state_dir / f"windows.db{end}" for end in ("", "-wal"))
    there = next(p for p in (config.state_dir, *config.state_dir.parents) if os.access(p, os.F_OK))
    held = sum(file.stat().st_size for file in files if os.access(file, os.F_OK))
    return shutil.disk_usage(there).free + held


def _owner(about: os.stat_result) -> str:
    try:
        return pwd.getpwuid(about.st_uid).pw_name
    except KeyError:
        return str(about.st_uid)


def _commits(config: Config, folder: Path) -> Diagnosis:
    """How long windows take to be on the disk, since a client waits as long for its ack."""
    x = np.zeros((3, 128), np.float32)
    seconds = []
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
        path = Path(place) / "windows.db"
        with closing(Store.open(path, shape=(3, 128), classes=("a", "b"))) as store:
            for start in range(0, _COMMITS * _BATCH, _BATCH):
                entries = [
                    Entry("doctor", "s", seq, 1, x, 0) for seq in range(start, start + _BATCH)
                ]
                begun = time.perf_counter()
                store.add(entries)
                seconds.append(time.perf_counter() - begun)
    typical, worst = 1000 * median(seconds), 1000 * max(seconds)
    return Diagnosis(
        "commit",
        "ok",
        f"{_BATCH} windows are durable after {typical:.1f} ms, {worst:.1f} at worst",
        {"commit_ms": round(typical, 3), "slowest_commit_ms": round(worst, 3)},
    )


def sockets(config: Config) -> Diagnosis:
    """Whether a service answers; where there is none, whether its sockets can be bound."""
    if running(config):
        with Operator(config.sockets.control, timeout_s=_ANSWER_S) as operator:
            state = operator.status()["state"]
        said = f"a service answers: {state['state']}, model {state['model']}"
        return Diagnosis("sockets", "ok", said, {"running": True, "model": state["model"]})
    asyncio.run(_bind_all(config))
    bound = [address for _, address in _addresses(config)]
    said = f"no service runs; {len(bound)} sockets can be bound"
    return Diagnosis("sockets", "ok", said, {"running": False, "addresses": bound})


async def _bind_all(config: Config) -> None:
    with closing(Sockets.secured(config.security)) as opened:
        await opened.start()
        kinds = {"ingest": ROUTER, "plain": SUB, "status": XPUB, "control": ROUTER}
        for name, address in _addresses(config):
            sensors = name in ("ingest", "plain")
            opened.bind(kinds[name], address, field=f"sockets.{name}", for_sensors=sensors)


def _addresses(config: Config) -> list[tuple[str, str]]:
    return [(name, address) for name, address in config.sockets if address is not None]
