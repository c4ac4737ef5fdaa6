"""The real service in a process of its own, listened to as an operator would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
import zmq

from edgetuner.client import Client, Operator, subscribe
from edgetuner.errors import UnavailableError
from edgetuner.protocol import MAGIC, TO_SENSOR, StatusMessage, decode
from tests import waves

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60.0  # the end of hope, not a measurement: the machine may be busy

# Small and quick: windows are few here, and no test waits for a cool-down.
SETTINGS: dict[str, Any] = {
    "telemetry": {"sources": []},
    "status": {"heartbeat_s": 0.2},
    "adapt": {
        "min_labels": 30,
        "min_classes": 3,
        "steps": 30,
        "batch_size": 32,
        "cooldown_s": 0,
        "deadline_s": 120,
        "choose": "last",
        "trained_fraction": 0.3,
    },
    "gate": {"min_windows": 8},
    "probation": {"labels": 12},
}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` put in, section by section."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


class Heard:
    """Messages of the status socket, from the moment that the subscription stands."""

    def __init__(self, address: str, **keys: Path) -> None:
        self.messages: list[StatusMessage] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._listen, args=(address, keys), daemon=True)
        self._thread.start()

    def wait(
        self, topic: str, accept: Callable[[dict[str, Any]], bool] = lambda data: True
    ) -> StatusMessage:
        """The first message of this topic whose data are accepted; fails if none comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._first(topic, accept), PATIENCE_S)
            found = self._first(topic, accept)
            told = [m for m in self.messages if m.topic.startswith("event.")]
            assert found is not None, f"no {topic}; events: {told}"
            return found

    def of(self, topic: str) -> list[dict[str, Any]]:
        """Data of every message of this topic, so far."""
        with self._changed:
            return [m.data for m in self.messages if m.topic == topic]

    def forget(self) -> None:
        """Begins anew, so that `wait` looks at what is still to come."""
        with self._changed:
            self.messages.clear()

    def close(self) -> None:
        self._closing = True
        self._thread.join()

    def _first(self, topic: str, accept: Callable[[dict[str, Any]], bool]) -> StatusMessage | None:
        return next((m for m in self.messages if m.topic == topic and accept(m.data)), None)

    def _listen(self, address: str, keys: Mapping[str, Path]) -> None:
        messages = subscribe(address, timeout_s=0.2, **keys)
        for message in messages:
            if self._closing:
                break
            if message is not None:
                with self._changed:
                    self.messages.append(message)
                    self._changed.notify_all()
        messages.close()  # type: ignore[attr-defined]


class Live:
    """`edgetuner run`; started by `with`, and again by `start` after `kill` or `terminate`.

    Args:
        bundle: the first champion.
        settings: put over `SETTINGS`.
        environment: further variables of the process.
        keys: the operator's CURVE key files, as `Operator` takes them.
        program: what the interpreter is given before the command line.
    """

    def __init__(
        self,
        bundle: Path,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        keys: Mapping[str, Path] | None = None,
        program: Sequence[str] = ("-m", "edgetuner"),
    ) -> None:
        self._keys = keys or {}
        self._program = program
        self.folder = Path(tempfile.mkdtemp(prefix="et-"))
        self.config_path = self.folder / "edgetuner.yaml"
        self.log = self.folder / "log.txt"
        self.errors = self.folder / "errors.txt"
        names = ("ingest", "plain", "status", "control")
        local = {
            "bundle": str(bundle),
            "state_dir": str(self.folder / "state"),
            "sockets": {name: f"ipc://{self.folder / name}" for name in names},
        }
        self.config = merged(merged(SETTINGS, local), settings or {})
        self.write_config()
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.heard: Heard | None = None

    def __enter__(self) -> Live:
        self.start()
        self.heard = Heard(self.sockets["status"], **self._keys)
        self.heard.wait("status.snapshot")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.heard is not None:
            self.heard.close()
        self.kill()
        if kind is not None:
            sys.stdout.write(f"{self.log.read_text()[-4000:]}\n{self.errors.read_text()}\n")
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def sockets(self) -> dict[str, str]:
        """Addresses by name."""
        return dict(self.config["sockets"])

    @property
    def state_dir(self) -> Path:
        return Path(self.config["state_dir"])

    def write_config(self, **over: Any) -> None:
        """Writes the file, with `over` put over what it was."""
        self.config_path.write_text(yaml.safe_dump(merged(self.config, over)))

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the process, and does not wait for it."""
        with self.log.open("ab") as log, self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *self._program, "run", "-c", os.fspath(self.config_path)],
                stdout=log,
                stderr=errors,
                env=self._environment,
                cwd=ROOT,
            )
        return self.process

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        process = self.launch()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.call("status")
                return
            except UnavailableError:
                assert process.poll() is None, self.errors.read_text()
                assert time.monotonic() < deadline, "the service does not answer"

    def kill(self) -> None:
        """SIGKILL, as if the power were gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def hang_up(self) -> None:
        """SIGHUP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def client(self, name: str = "watch-7", **options: Any) -> Client:
        """A client of the acknowledged plane."""
        return Client(self.sockets["ingest"], name, timeout=PATIENCE_S, **options)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What the control socket answers."""
        with Operator(self.sockets["control"], timeout_s=10.0, **self._keys) as operator:
            return operator.call(method, params)

    def events(self) -> Iterator[dict[str, Any]]:
        """What the process logged, over all its lives."""
        for line in self.log.read_text().splitlines():
            yield json.loads(line)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the store's file holds, while nobody runs on it."""
        with closing(sqlite3.connect(self.state_dir / "windows.db")) as connection:
            return connection.execute(query).fetchall()


class Sensor:
    """A client with one stream of waves, that can be turned round, and a wearer who labels.

    Args:
        turned: whether the sensor is worn upside down.
    """

    def __init__(self, client: Client, stream: str = "wrist", *, turned: bool = False) -> None:
        self.client = client
        self.stream = stream
        self.turned = turned
        self.seq = 0
        self.labelled: list[int] = []

    def publish(self, count: int, *, hold: bool = False) -> range:
        """Sends windows, in bouts of the classes, and returns their numbers; waits for the answers
        unless it is told to `hold`.
        """
        first = self.seq
        for seq in range(first, first + count):
            x = waves.window(seq, waves.label_of(seq))
            self.client.publish(
                self.stream, waves.turned(x) if self.turned else x, t_ns=(seq + 1) * 10**9
            )
        self.seq += count
        if not hold:
            self.client.flush()
        return range(first, self.seq)

    def label(self, seqs: Sequence[int], *, wrong: bool = False, hold: bool = False) -> None:
        """Labels windows that were sent."""
        self.labelled += seqs
        for seq in seqs:
            label = waves.label_of(seq) + wrong
            self.client.label(self.stream, seq, waves.CLASSES[label % len(waves.CLASSES)])
        if not hold:
            self.client.flush()


class Wire:
    """A sensor that says what it likes: header and payload as they are given."""

    def __init__(self, address: str, name: str = "raw") -> None:
        self.name = name
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.rcvtimeo = round(1000 * PATIENCE_S)
        self._socket.connect(address)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def window(self, stream: str, seq: int, x: waves.Window | None = None, **over: Any) -> None:
        """Sends a good window, but for the fields of the header that are given."""
        x = waves.window(seq, 0) if x is None else x
        payload = over.pop("payload", x.tobytes())
        header = {
            "v": 1,
            "type": "window",
            "client_id": self.name,
            "stream": stream,
            "seq": seq,
            "t_ns": seq,
            "hz": waves.HZ,
            "dtype": "float32",
            "shape": list(x.shape),
            "crc32": zlib.crc32(payload),
        }
        self.send(header | over, payload)

    def send(self, header: Mapping[str, Any], *payload: bytes) -> None:
        """Sends a message of the protocol."""
        self.frames(MAGIC, json.dumps(header).encode(), *payload)

    def frames(self, *frames: bytes) -> None:
        """Sends anything."""
        self._socket.send_multipart(frames)

    def answer(self) -> Any:
        """The next message from the service."""
        return decode(self._socket.recv_multipart(), TO_SENSOR)[0]

    def hello(self, *, predictions: bool = False) -> Any:
        """Introduces itself; the welcome."""
        self.send({"type": "hello", "client_id": self.name, "predictions": predictions})
        return self.answer()
