"""The real service as a child process, listened to on its status socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from edgetuner.client import Operator, subscribe
from edgetuner.errors import EdgetunerError, UnavailableError

_START_S = 60.0


@dataclass(frozen=True)
class Event:
    """Something the service said: when (this process's clock), on which topic, and what."""

    t: float
    topic: str
    data: dict[str, Any]


class RunningService:
    """`edgetuner run` on a configuration, with its state and log in a folder of its own.

    Args:
        config: the configuration to start from; sockets and state directory are replaced.
        folder: for state, log and the configuration that is used.
        sockets: for the ipc sockets; a short path.
    """

    def __init__(self, config: Path, folder: Path, sockets: Path) -> None:
        raw = yaml.safe_load(config.read_text())
        raw["bundle"] = str((config.parent / raw["bundle"]).resolve())
        raw["state_dir"] = str((folder / "state").resolve())
        raw["sockets"] = {
            name: f"ipc://{sockets / name}" for name in ("ingest", "status", "control")
        }
        self._config = folder / "edgetuner.yaml"
        self._config.write_text(yaml.safe_dump(raw))
        self._log = folder / "service.log"
        self._addresses: dict[str, str] = raw["sockets"]
        self.events: list[Event] = []
        self.exit_code: int | None = None

    @property
    def ingest(self) -> str:
        """Address of the acknowledged ingest socket."""
        return self._addresses["ingest"]

    @property
    def control(self) -> str:
        """Address of the control socket."""
        return self._addresses["control"]

    def status(self) -> dict[str, Any]:
        """The whole state, asked on the control socket."""
        with Operator(self._addresses["control"], timeout_s=10.0) as operator:
            return operator.status()

    def __enter__(self) -> RunningService:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgetuner", "run", "-c", os.fspath(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.status()
                return self
            except UnavailableError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._process.kill()
                    raise SystemExit(
                        f"demo: the service did not start:\n{self._log.read_text()}"
                    ) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()

    def _listen(self) -> None:
        try:
            for message in subscribe(self._addresses["status"], ("event.", "status.adaptation")):
                if message is not None:
                    self.events.append(Event(time.monotonic(), message.topic, message.data))
        except EdgetunerError as error:
            print(f"demo: {error}", file=sys.stderr)
