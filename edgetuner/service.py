"""The service, top to bottom as it lives: start, serve, reload, drain."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgetuner import __version__
from edgetuner.adapt.coordinator import Coordinator
from edgetuner.config import Config, fixed_changes, load_config
from edgetuner.control import Control, Demand, Method, Nothing, Which, Why
from edgetuner.drift.monitor import Finding
from edgetuner.errors import BundleError, BusyError, ConfigError, EdgetunerError, StoreError
from edgetuner.inference import ModelVersion, choose_device, limit_threads
from edgetuner.ingest import Ingest, prediction_header
from edgetuner.label_cache import LabelCache
from edgetuner.log import Log
from edgetuner.notify import Notify
from edgetuner.pipeline import Pipeline, Predicted, describe_finding, watch_with
from edgetuner.predictor import Predictor
from edgetuner.protocol import MAGIC
from edgetuner.publisher import Publisher
from edgetuner.registry import Registry
from edgetuner.serving import Serving
from edgetuner.store import Store
from edgetuner.telemetry import open_telemetry
from edgetuner.transport import ROUTER, SUB, XPUB, Sockets

_DRAIN_S = 20.0  # how long SIGTERM waits for windows that are acknowledged but not predicted yet
_TOLD = 512  # streams that the status is about: of thousands it would be too long for a message
_START_S = 120.0  # the first CUDA context after a boot is slow


class Service:
    """One running service.

    Args:
        config: checked.
        config_path: read again on SIGHUP; None: SIGHUP changes nothing.
    """

    def __init__(self, config: Config, config_path: Path | None = None) -> None:
        self.config = config
        self._config_path = config_path
        self._boot_id = uuid.uuid4().hex
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._serving = False
        self._store_problem: str | None = None
        self._notify = Notify()
        self._log = Log(config.log.level, config.log.format)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises EdgetunerError if it cannot start."""
        self._heed_signals()
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            await self._remember()
            recovered = await self._recovered()
            if recovered is None:
                return
            self._ingest.keep(recovered, self._pipeline.version.classes)
            model = self._pipeline.version.id
            self._notify.ready(f"serving {model}")
            self._publish("event.started", {"version": __version__, "model": model})
            await self._serve()

    async def _remember(self) -> None:
        """Labels that cannot be read again are missed, and hold up nothing."""
        try:
            await self._pipeline.remember()
        except StoreError as error:
            self._log.event("event.trouble", {"error": error.to_wire()})

    async def _recovered(self) -> Sequence[Predicted] | None:
        """What the run before owed; None if we are told to stop before it is paid: a full disk."""
        owed = asyncio.ensure_future(self._predictor.recover())
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([owed, stop], return_when=asyncio.FIRST_COMPLETED)
        await _end([stop])
        if owed.done():
            return owed.result()
        self._notify.stopping()
        await _end([owed])
        return None

    # ------------------------------------------------------------------ start

    def _heed_signals(self) -> None:
        # From the first moment: a signal that is not handled ends the process and leaves sockets.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        self._notify.extend(_START_S)
        stack.enter_context(_alone_in(config.state_dir))
        self._sockets = stack.enter_context(contextlib.closing(Sockets.secured(config.security)))
        await self._sockets.start()
        self._bind()
        self._telemetry = stack.enter_context(
            contextlib.closing(
                open_telemetry(config.telemetry.sources, config.telemetry.interval_s)
            )
        )
        self._telemetry.phase("infer")
        self._registry = Registry(config.state_dir / "models", config.registry.keep)
        self._registry.sweep()
        limit_threads(config.inference.threads)
        self._device = choose_device(config.inference.device)
        version, new = self._first_version()
        champion = version.id == self._registry.aliases.champion
        serving = Serving(version, self._beside() if champion else ())
        watch = watch_with(config, version)
        cache = LabelCache() if config.inference.label_cache else None
        self._pipeline = Pipeline(_store(config, version), serving, watch, cache)
        stack.push_async_callback(self._pipeline.close)
        if new:  # only now is it known to serve
            self._registry.install(version.id)
        self._assemble()

    def _bind(self) -> None:
        addresses, bind = self.config.sockets, self._sockets.bind
        self._router = bind(ROUTER, addresses.ingest, field="sockets.ingest", for_sensors=True)
        self._plain = (
            None
            if addresses.plain is None
            else bind(SUB, addresses.plain, field="sockets.plain", for_sensors=True)
        )
        if self._plain is not None:
            self._plain.subscribe(MAGIC)
        self._control_socket = bind(ROUTER, addresses.control, field="sockets.control")
        self._publisher = Publisher(
            bind(XPUB, addresses.status, field="sockets.status"), self._boot_id
        )

    def _beside(self) -> tuple[ModelVersion, ...]:
        """The version that answers beside the champion, if any; one that is damaged holds up
        nothing.
        """
        beside = self._registry.aliases.beside
        if beside is None or not self.config.adapt.beside:
            return ()
        try:
            loaded = ModelVersion.load(
                self._registry.path(beside),
                device=self._device,
                allow_factories=self.config.inference.allow_factories,
            )
        except EdgetunerError as error:
            self._log.event("event.trouble", {"error": error.to_wire()})
            return ()
        return (loaded,)

    def _first_version(self) -> tuple[ModelVersion, bool]:
        """The version to come up with, the champion or a configured bundle that has still to be
        installed, and whether it is that.
        """
        registry, bundle = self._registry, self.config.bundle
        if registry.aliases.champion is None:
            if bundle is None:
                raise ConfigError(
                    "needed, since there is no model version yet",
                    field="bundle",
                    remedy="make one with `edgetuner bundle create`",
                )
            return self._taken(bundle), True
        if registry.aliases.candidate is not None:
            registry.end_probation(
                "the service ended before it had proved itself", interrupted=True
            )
        try:
            if bundle is not None and registry.replaces(bundle):
                return self._taken(bundle), True
        except EdgetunerError as error:  # what served until now goes on
            self._log.event("event.trouble", {"error": error.to_wire()})
        try:
            return self._loaded("champion"), False
        except BundleError as error:
            if bundle is None:
                raise
            self._log.event("event.trouble", {"error": error.to_wire()})
            return self._taken(bundle), True

    def _taken(self, bundle: Path) -> ModelVersion:
        """A configured bundle, copied in; it is able to serve and to be watched."""
        try:
            version = self._loaded(self._registry.add(bundle))
        except BundleError as error:
            raise BundleError(
                "cannot be taken", field="bundle", value=str(bundle), remedy=str(error)
            ) from None
        watch_with(self.config, version)
        return version

    def _loaded(self, version: str) -> ModelVersion:
        return ModelVersion.load(
            self._registry.path(version),
            device=self._device,
            allow_factories=self.config.inference.allow_factories,
            drift=self.config.drift,
        )

    def _assemble(self) -> None:
        config = self.config
        self._coordinator = Coordinator(
            lambda: self.config,
            self._pipeline,
            self._registry,
            self._telemetry,
            self._publish,
            self._device,
        )
        self._predictor = Predictor(
            self._pipeline,
            config.inference,
            config.ingest.max_backlog,
            self._on_predicted,
            self._on_store_failed,
        )
        self._ingest = Ingest(
            self._sockets,
            self._router,
            self._pipeline,
            lambda: self.config.ingest,
            self._boot_id,
            self._predictor.put,
            self._on_labels,
        )
        self._control = Control(self._control_socket, self._methods())

    # ------------------------------------------------------------------ serve

    async def _serve(self) -> None:
        self._serving = True
        intake = [self._ingest.serve(self._router)]
        if self._plain is not None:
            intake.append(self._ingest.serve(self._plain, plain=True))
        intake_tasks = _tasks(intake)
        tasks = _tasks(
            [
                self._predictor.serve(),
                self._coordinator.run(),
                self._control.serve(),
                self._publisher.serve(),
                self._beat(),
                self._read_board(),
                self._stop.wait(),
            ]
        )
        done, _ = await asyncio.wait([*intake_tasks, *tasks], return_when=asyncio.FIRST_COMPLETED)
        self._notify.stopping()
        await _end(intake_tasks)  # nothing more is acknowledged from here on
        if self._stop.is_set():
            self._publish("event.stopping", {"backlog": self._predictor.backlog})
            await self._predictor.drain(_DRAIN_S)
        await _end(tasks)
        for task in done:
            task.result()  # a part that broke says why, and the service ends with its error

    def _on_predicted(self, predicted: Sequence[Predicted], findings: Sequence[Finding]) -> None:
        self._store_problem = None
        names = self._pipeline.version.classes
        self._ingest.send_predictions(predicted, names)
        if self.config.status.predictions:
            for one in predicted:
                data = prediction_header(one, names).model_dump(
                    exclude={"v", "type"}, exclude_none=True
                )
                self._publisher.publish(f"prediction.{one.window.client}.{one.window.stream}", data)
        self._on_findings(findings)
        self._coordinator.on_predictions(len(predicted))

    def _on_labels(self, findings: Sequence[Finding]) -> None:
        self._on_findings(findings)
        self._coordinator.on_labels()

    def _on_findings(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self._publish(f"event.{finding.kind}", describe_finding(finding))
        self._coordinator.on_findings(findings)

    def _on_store_failed(self, error: StoreError) -> None:
        if str(error) != self._store_problem:
            self._store_problem = str(error)
            self._publish("event.store_failed", {"error": error.to_wire()})

    async def _beat(self) -> None:
        turns = -1
        while True:
            await self._tell_state()
            # The watchdog is fed only while predictions move, or nothing waits for one.
            if self._predictor.turns != turns or not self._predictor.backlog:
                self._notify.alive()
            turns = self._predictor.turns
            interval = self.config.status.heartbeat_s
            if self._notify.watchdog_s is not None:
                interval = min(interval, self._notify.watchdog_s / 2)
            await asyncio.sleep(interval)

    async def _read_board(self) -> None:
        while True:
            sample = await asyncio.to_thread(self._telemetry.read)
            self._coordinator.board = sample
            board: dict[str, Any] = {"source": "none"} if sample is None else sample.to_wire()
            if energy := self._telemetry.energy_j():
                board["energy_j"] = energy
            if self._telemetry.skipped:
                board["skipped"] = self._telemetry.skipped
            self._publish("status.board", board)
            await asyncio.sleep(self.config.telemetry.interval_s)

    def _reload(self) -> None:
        """SIGHUP: the whole new configuration, or none of it."""
        if self._config_path is None or not self._serving:
            return
        self._notify.reloading()
        try:
            new = load_config(self._config_path)
            if fixed := fixed_changes(self.config, new):
                raise ConfigError(
                    "cannot be changed while the service runs",
                    field=", ".join(fixed),
                    remedy="restart the service",
                )
            self._sockets.reload_keys()
        except EdgetunerError as error:
            self._publish("event.reload_refused", {"error": error.to_wire()})
        else:
            self.config = new
            self._log = Log(new.log.level, new.log.format)
            self._publish("event.reloaded", {})
        self._notify.ready(f"serving {self._pipeline.version.id}")

    # ------------------------------------------------------------------ what it tells

    def _publish(self, topic: str, data: dict[str, Any]) -> None:
        self._publisher.publish(topic, data)
        if topic.startswith("event."):
            self._log.event(topic, data)

    async def _tell_state(self) -> None:
        for name, data in (await self._state()).items():
            self._publisher.publish(f"status.{name}", data)

    async def _state(self) -> dict[str, dict[str, Any]]:
        """Everything that `status` answers and the heartbeat carries, by topic."""
        version = self._pipeline.version
        adaptation = self._coordinator.describe()
        store = await self._pipeline.stored(_describe_store)
        return {
            "state": {
                "state": adaptation["state"],
                "model": version.id,
                "device": self._device,
                "uptime_s": round(time.monotonic() - self._started, 1),
                "heartbeat_s": self.config.status.heartbeat_s,
                "predictions": self._predictor.predicted,
                "overruled": self._predictor.overruled,
                "backlog": self._predictor.backlog,
                "latency_s": self._predictor.latency_s(),
            },
            "ingest": {
                **self._ingest.counts,
                "refusals": dict(self._ingest.refusals),
                **store,
            },
            "model": {
                **_describe_serving(self._pipeline.serving),
                **asdict(self._registry.aliases),
                "metrics": version.manifest.metrics,
            },
            "drift": await self._pipeline.watched(lambda monitor: monitor.state()),
            "adaptation": adaptation,
        }

    # ------------------------------------------------------------------ what it is asked

    def _methods(self) -> dict[str, Method]:
        return {
            "status": (Nothing, self._status),
            "adapt": (Demand, self._adapt),
            "pause": (Nothing, self._pause),
            "resume": (Nothing, self._resume),
            "models.list": (Nothing, self._models_list),
            "models.show": (Which, self._models_show),
            "models.promote": (Which, self._models_promote),
            "models.rollback": (Why, self._models_rollback),
        }

    async def _status(self, _: Nothing) -> dict[str, Any]:
        return {**await self._state(), "board": self._publisher.latest("status.board")}

    async def _adapt(self, params: Demand) -> dict[str, Any]:
        self._coordinator.request(params.reason, trust_labels=params.trust_labels)
        return {"requested": True}

    async def _pause(self, _: Nothing) -> dict[str, Any]:
        self._coordinator.pause()
        return self._coordinator.describe()

    async def _resume(self, _: Nothing) -> dict[str, Any]:
        self._coordinator.resume()
        return self._coordinator.describe()

    async def _models_list(self, _: Nothing) -> dict[str, Any]:
        return {"versions": await asyncio.to_thread(self._registry.rows)}

    async def _models_show(self, params: Which) -> dict[str, Any]:
        manifest = await asyncio.to_thread(self._registry.manifest, params.version)
        shown: dict[str, Any] = manifest.model_dump(mode="json")
        history = [e for e in self._registry.history() if e["version"] == manifest.version]
        return shown | {"history": history}

    async def _models_promote(self, params: Which) -> dict[str, Any]:
        return {"champion": await self._coordinator.promote(params.version, params.reason)}

    async def _models_rollback(self, params: Why) -> dict[str, Any]:
        return {"live": await self._coordinator.rollback(params.reason)}


def _store(config: Config, version: ModelVersion) -> Store:
    manifest = version.manifest
    return Store.open(
        None if config.store.durability == "memory" else config.state_dir / "windows.db",
        shape=(len(manifest.channels), manifest.length),
        classes=manifest.classes,
        durability=config.store.durability,
        sample_every=config.store.sample_every,
        max_bytes=config.store.max_mb * 1024 * 1024,
        max_streams=config.ingest.max_streams,
    )


def _describe_serving(serving: Serving) -> dict[str, Any]:
    about: dict[str, Any] = {"live": serving.version.id}
    if not serving.beside:
        return about
    beside = [version.id for version in serving.beside]
    return about | {"live_share": round(serving.shares[0], 3), "live_beside": beside}


def _describe_store(store: Store) -> dict[str, Any]:
    """Counters of every stream, and what the store takes of the disk."""
    streams = store.streams()
    about: dict[str, Any] = {
        "streams_known": len(streams),
        "streams": {
            "/".join(key): {
                "accepted": stream.accepted,
                "refused": stream.refused,
                "duplicates": stream.duplicates,
                "lost": stream.lost,
                "labelled": stream.labelled,
                "last_seq": stream.last_seq,
            }
            for key, stream in list(streams.items())[-_TOLD:]
        },
        "store_bytes": store.used_bytes,
        "bytes_written": store.bytes_written,
        "bytes_written_per_day": store.bytes_written_per_day(),
    }
    return {name: value for name, value in about.items() if value is not None}


@contextlib.contextmanager
def _alone_in(state_dir: Path) -> Iterator[None]:
    """Holds the state directory for this process; the kernel lets go of it, however the process
    ends.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            "cannot be used",
            field="state_dir",
            value=f"{state_dir}: {error.strerror}",
            remedy="make it writable for the service's user",
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                "another service uses this folder",
                field="state_dir",
                value=str(state_dir),
                remedy="stop it, or give this one a folder of its own",
            ) from None
        yield
    finally:
        os.close(lock)


def _tasks(work: Sequence[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(coroutine) for coroutine in work]


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
