"""What may be done about drift: nothing, too much, too little, and what the service does.

All of them see the same windows in the same small batches, get the same labels when they have
arrived, watch with the same detectors, and wait for what they train: as many windows of the stream
go by as came in the seconds that training took.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.homes import asked
from benchmarks.learners import BATCH, STEPS
from benchmarks.scenarios import Stream
from edgetuner.adapt import child
from edgetuner.adapt.coordinator import Coordinator
from edgetuner.adapt.job import Job
from edgetuner.config import Config
from edgetuner.drift import DriftMonitor, Reference, calibrate
from edgetuner.drift.monitor import Finding
from edgetuner.errors import DriftError
from edgetuner.inference import ModelVersion, Outputs
from edgetuner.label_cache import LabelCache
from edgetuner.models import embed
from edgetuner.peft.statistics import reestimate
from edgetuner.pipeline import Pipeline, watch_with
from edgetuner.registry import Registry
from edgetuner.serving import Serving
from edgetuner.store import Entry, LabelEntry, Store, Window
from edgetuner.telemetry import open_telemetry

KEY = ("person", "imu")
PERIOD = 300  # windows between two periodic trainings
MIN_LABELS, MIN_CLASSES = 40, 2  # of the context, before anything is trained: as the service asks
_NEWEST = 1000  # windows, for periodic training
_READ_S = 1.0  # between two readings of the rails while the child trains
_CALM = 100  # windows of a new context, before its statistics are taken

# Those of the service; only rails are of interest, and every version is compared at the end.
_SETTINGS: dict[str, Any] = {
    "telemetry": {"sources": ("jtop", "sysfs")},
    "registry": {"keep": 50},
    # the same chip for every policy, and room for a build of torch that is larger than a Jetson's
    "adapt": {"device": "cpu", "memory_budget_mb": 6000},
}

Ints = NDArray[np.int64]
Answering = Callable[[range], Ints]  # what somebody says of the windows of a stream

AT_ONCE = 8  # windows answered together


@dataclass
class Log:
    """What a policy did.

    Attributes:
        swaps: (first window that the new version answered, who answered before, who does now).
        events: (window, what happened) in order.
        findings: of the detectors; `seq` is the latest window when it was told.
        train_seconds: of each training, without calibrating detectors anew.
        adapt_seconds: of each adaptation, with that.
        trained_on: numbers of all windows that went into a training.
        failures: why adaptations came to nothing.
        energy_j: of training; None where no rail could be read.
    """

    swaps: list[tuple[int, Answering, Answering]] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    adapt_seconds: list[float] = field(default_factory=list)
    trained_on: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    energy_j: float | None = None

    def note(self, findings: Sequence[Finding], latest: int) -> None:
        """What the detectors told after window `latest`; a warning is no event."""
        self.findings += [replace(finding, seq=latest) for finding in findings]
        self.events += [(latest, finding.kind) for finding in findings if finding.kind != "warn"]


class Policy(ABC):
    """One way to live with drift.

    Args:
        stream: of which a policy sees only what has come.
        version: the source model, its drift reference calibrated.
        folder: an empty one.
        rate: learning rate of full fine-tuning.
    """

    def __init__(self, stream: Stream, version: ModelVersion, folder: Path, rate: float) -> None:
        self.stream = stream
        self.version = version
        self.folder = folder
        self.rate = rate
        self.log = Log()

    @abstractmethod
    async def windows(self, rows: range) -> Ints:
        """Answers the next windows, numbered `rows`: class indices."""

    @abstractmethod
    async def labels(self, rows: Sequence[int]) -> None:
        """Labels of these windows have come."""

    @abstractmethod
    async def act(self, now: int) -> None:
        """Does what is called for; `now` windows have come so far."""

    @abstractmethod
    async def close(self) -> None:
        """Ends what is under way."""


class Peer(Policy):
    """What the peers share: a model, detectors, and a training that takes its time."""

    def __init__(self, stream: Stream, version: ModelVersion, folder: Path, rate: float) -> None:
        super().__init__(stream, version, folder, rate)
        self._model = Model(copy.deepcopy(version._module), version)
        self._monitor = DriftMonitor(version.reference, profile=version.sensor)
        self._known: dict[int, int] = {}
        self._answers: dict[int, int] = {}  # of the present model
        self._latest = 0  # window
        self._coming: tuple[int, Model, Reference | None] | None = None

    async def windows(self, rows: range) -> Ints:
        x = self.stream.windows.x[rows.start : rows.stop]
        out = self._model(x)
        found = self._monitor.update_many(
            [KEY] * len(rows), rows, x, out.embeddings, out.predicted, out.confidence
        )
        self._latest = rows.stop - 1
        self.log.note(found, self._latest)
        self._answers |= dict(zip(rows, out.predicted.tolist(), strict=True))
        return out.predicted

    async def labels(self, rows: Sequence[int]) -> None:
        for row in rows:
            self._known[row] = int(self.stream.label[row])
            if row in self._answers:
                found = self._monitor.label(KEY, row, self._known[row], self._answers[row])
                self.log.note(found, self._latest)

    async def act(self, now: int) -> None:
        if self._coming is not None:
            first, model, reference = self._coming
            if now < first:
                return
            self._coming = None
            self.log.swaps.append((now, self._answering(self._model), self._answering(model)))
            self.log.events.append((now, "swap"))
            self._model = model
            self._answers = {}
            if reference is not None:
                self._monitor.swap(reference)
            else:
                self._monitor.acknowledge(KEY)
        self.consider(now)

    async def close(self) -> None:
        """Nothing goes on behind its back."""

    def consider(self, now: int) -> None:
        """Trains if that is called for; by itself a policy does nothing."""

    def _answering(self, model: Model) -> Answering:
        x = self.stream.windows.x
        return lambda rows: model(x[rows.start : rows.stop]).predicted

    def _trained(
        self, now: int, module: nn.Module, began_s: float, used: Sequence[int], start: int
    ) -> None:
        """Takes the module as the next model, once its training is paid for in windows."""
        seconds = time.perf_counter() - began_s
        model = Model(module, self.version)
        self.log.trained_on |= set(used)
        self.log.train_seconds.append(seconds)
        reference = self._reference(model, range(start, now))
        adapt_seconds = time.perf_counter() - began_s
        self.log.adapt_seconds.append(adapt_seconds)
        self._coming = (now + math.ceil(adapt_seconds / self.stream.hop_s), model, reference)

    def _reference(self, model: Model, context: range) -> Reference | None:
        """Of a new model, as the service's worker makes it; None where the windows are too few."""
        bundle = self.version.bundle
        own = [row for row in context if row in self._known]
        y = np.array([self._known[row] for row in own], np.int64)
        absent = ~np.isin(bundle.exemplar_y, y)
        x = np.concatenate([self.stream.windows.x[own], bundle.exemplar_x[absent]])
        held = model(self.stream.windows.x[context.start : context.stop])
        try:
            fitted = Reference.fit(
                model(x.astype(np.float32)).embeddings,
                np.concatenate([y, bundle.exemplar_y[absent]]),
                held.embeddings,
                held.predicted,
                held.confidence,
                bundle.manifest.classes,
            )
            return calibrate(fitted, **asked(self.version.reference))
        except DriftError:
            return None

    def _labelled(self, start: int) -> list[int]:
        """Labelled windows from `start` on, if they are enough to train on; else none."""
        rows = [row for row in self._known if row >= start]
        classes = {self._known[row] for row in rows}
        return rows if len(rows) >= MIN_LABELS and len(classes) >= MIN_CLASSES else []

    def _full(self, now: int, rows: Sequence[int], start: int) -> None:
        began_s = time.perf_counter()
        x = self._model.scaled(self.stream.windows.x[list(rows)])
        y = torch.tensor([self._known[row] for row in rows])
        module = fine_tuned(self._model.module, x, y, self.rate, seed=now)
        self._trained(now, module, began_s, rows, start)


class Never(Peer):
    """The source model, for ever."""


class Periodic(Peer):
    """Full fine-tuning on the newest labelled windows, every so many windows."""

    def __init__(self, stream: Stream, version: ModelVersion, folder: Path, rate: float) -> None:
        super().__init__(stream, version, folder, rate)
        self._next = PERIOD

    def consider(self, now: int) -> None:
        if now < self._next or self._coming is not None:
            return
        self._next += PERIOD
        start = max(0, now - _NEWEST)
        rows = self._labelled(start)
        if rows:
            self._full(now, rows, start)


class FullOnDrift(Peer):
    """Full fine-tuning on the labelled windows of the new context, once it is found."""

    def consider(self, now: int) -> None:
        if self._monitor.drifted(KEY) and self._coming is None:
            start = self._monitor.context_start(KEY)
            rows = self._labelled(start)
            if rows:
                self._full(now, rows, start)


class StatisticsOnDrift(Peer):
    """Batch-norm statistics of the new context, once it is found (arXiv 1603.04779)."""

    def consider(self, now: int) -> None:
        start = self._monitor.context_start(KEY)
        if not self._monitor.drifted(KEY) or self._coming or now - start < _CALM:
            return
        began_s = time.perf_counter()
        x = self._model.scaled(self.stream.windows.x[start:now])
        module = copy.deepcopy(self._model.module)
        buffers = reestimate(module, torch.tensor_split(x, max(1, len(x) // 64)))
        module.load_state_dict(buffers, strict=False)
        self._trained(now, module.eval(), began_s, range(start, now), start)


class Model:
    """A module with the normalisation of the source."""

    def __init__(self, module: nn.Module, version: ModelVersion) -> None:
        self.module = module.eval()
        self._bundle = version.bundle

    def scaled(self, x: NDArray[np.float32]) -> Tensor:
        """Raw windows as the module wants them."""
        mean, std = self._bundle.mean[:, None], self._bundle.std[:, None]
        return torch.from_numpy(((x - mean) / std).astype(np.float32))

    def __call__(self, x: NDArray[np.float32]) -> Outputs:
        with torch.inference_mode():
            logits, embeddings = embed(
                self.module, self.scaled(x), self._bundle.manifest.backbone.head
            )
            confidence, predicted = logits.softmax(1).max(1)
        return Outputs(predicted.numpy(), confidence.numpy(), logits.numpy(), embeddings.numpy())


def fine_tuned(module: nn.Module, x: Tensor, y: Tensor, rate: float, seed: int) -> nn.Module:
    """All weights, with Adam on class-balanced batches, batch norm in training mode."""
    adapted = copy.deepcopy(module).train()
    draw = torch.Generator().manual_seed(seed)
    weight = 1.0 / torch.bincount(y)[y].float()
    optimiser = torch.optim.Adam(adapted.parameters(), lr=rate)
    for _ in range(STEPS):
        rows = torch.multinomial(weight, BATCH, replacement=True, generator=draw)
        loss = nn.functional.cross_entropy(adapted(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return adapted.eval()


class EdgeTuner(Policy):
    """The service without its sockets: store, pipeline, detectors, registry, coordinator, child.

    Time is the stream's. While the child trains the stream stands still; it then goes on with the
    old version for as long as the training took.
    """

    def __init__(self, stream: Stream, version: ModelVersion, folder: Path, rate: float) -> None:
        super().__init__(stream, version, folder, rate)
        config = Config.model_validate({**_SETTINGS, "state_dir": folder / "state"})
        manifest = version.manifest
        registry = Registry(config.state_dir / "models", config.registry.keep)
        registry.install(registry.add(version.bundle.path))
        store = Store.open(
            None,
            shape=(len(manifest.channels), manifest.length),
            classes=manifest.classes,
            durability="memory",
        )
        self._cache = LabelCache()
        watch = watch_with(config, version)
        self._pipeline = Pipeline(store, Serving(version), watch, self._cache)
        self._telemetry = open_telemetry(config.telemetry.sources, config.telemetry.interval_s)
        self._now = 0
        self._coordinator = Coordinator(
            lambda: config,
            self._pipeline,
            registry,
            self._telemetry,
            self._hear,
            "cpu",
            clock=lambda: self._now * stream.hop_s,
            train=self._train,
        )
        self._serving, self._heard = self._pipeline.serving, self._cache.copy()
        self._since = 0
        self._task: asyncio.Task[None] | None = None
        self._going_by: asyncio.Future[None] | None = None  # ends when more windows have come
        self._stands = asyncio.Event()  # training is done, and waits for windows to go by

    async def windows(self, rows: range) -> Ints:
        self._now = rows.stop
        x = self.stream.windows.x
        entries = [Entry(*KEY, row, self.stream.t_ns(row), x[row], crc32=row) for row in rows]
        receipts = await self._pipeline.stored(lambda store: store.add(entries))
        stored: list[Window] = [r.window for r in receipts if r.window is not None]
        predicted, findings = await self._pipeline.predict(stored)
        self._found(findings)
        self._coordinator.on_predictions(len(predicted))
        return np.array([p.predicted for p in predicted], np.int64)

    async def labels(self, rows: Sequence[int]) -> None:
        entries = [
            LabelEntry(*KEY, row, int(self.stream.label[row]), self.stream.t_ns(self._now))
            for row in rows
        ]
        _, findings = await self._pipeline.label(entries)
        weighed = self._pipeline.serving
        if weighed.version.id == self._serving.version.id:
            self._serving, self._heard = weighed, self._cache.copy()
        self._found(findings)
        self._coordinator.on_labels()

    async def act(self, now: int) -> None:
        if self._going_by is not None:
            self._stands.clear()
            self._going_by.set_result(None)
            self._going_by = None
        elif self._task is None:
            self._task = asyncio.create_task(self._coordinator.consider())
        assert self._task is not None
        stands = asyncio.create_task(self._stands.wait())
        await asyncio.wait([self._task, stands], return_when=asyncio.FIRST_COMPLETED)
        stands.cancel()
        if self._task.done():
            self._task.result()
            self._task = None
        serving, before = self._pipeline.serving, self._serving
        if serving.version.id != before.version.id:
            old, new = (
                Rehearsal(self.stream, who, cache.copy(), since)
                for who, cache, since in (
                    (before, self._heard, self._since),
                    (serving, self._cache, now),
                )
            )
            self.log.swaps.append((now, old, new))
            self._since = now
        self._serving = serving

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        spent = self._telemetry.energy_j()
        self.log.energy_j = spent.get("train")
        await self._pipeline.close()
        self._telemetry.close()

    def _found(self, findings: Sequence[Finding]) -> None:
        self.log.note(findings, self._now - 1)
        self._coordinator.on_findings(findings)

    async def _train(
        self, job: Job, progress: child.Progress, allow_factories: Sequence[str]
    ) -> dict[str, Any]:
        """In the child process, and then not before its time in the stream has come."""
        began = self._now
        windows = await asyncio.to_thread(job.windows)
        used = windows.t_ns[windows.y >= 0] // round(1e9 * self.stream.hop_s)
        self.log.trained_on |= {int(row) - 1 for row in used}
        reading = asyncio.create_task(self._read_rails())
        try:
            result = await child.train(job, progress, allow_factories)
        finally:
            reading.cancel()
        self.log.adapt_seconds.append(result["train_seconds"])
        self.log.train_seconds.append(sum(rung["seconds"] for rung in result["rungs"]))
        ready = began + math.ceil(result["train_seconds"] / self.stream.hop_s)
        while self._now < ready:
            self._going_by = asyncio.get_running_loop().create_future()
            self._stands.set()
            await self._going_by
        return result

    async def _read_rails(self) -> None:
        while True:
            await asyncio.to_thread(self._telemetry.read)
            await asyncio.sleep(_READ_S)

    def _hear(self, topic: str, data: dict[str, Any]) -> None:
        if topic.startswith("event."):
            self.log.events.append((self._now, topic.removeprefix("event.")))
        if topic == "event.adaptation_failed":
            self.log.failures.append(data["error"]["message"])


class LabelsAlone(EdgeTuner):
    """The service with its label cache, but it never trains: what is left is what training adds."""

    async def act(self, now: int) -> None:
        """Nothing."""


class Rehearsal:
    """How those who answered at one moment would have gone on, had nobody been swapped since:
    labels go on weighing and correcting them.

    Args:
        stream: where they answer.
        serving: who answered, as labels had weighed them by then.
        cache: what it had heard by then; it may be kept.
        since: the first window that they answered.
    """

    def __init__(self, stream: Stream, serving: Serving, cache: LabelCache, since: int) -> None:
        self._stream = stream
        self._serving = serving
        self._cache = cache
        self._since = since

    def __call__(self, rows: range) -> Ints:
        """Their answers to these windows, (N,)."""
        serving, cache = self._serving, self._cache.copy()
        labelled = np.flatnonzero(self._stream.label >= 0)
        due = self._stream.due[labelled]
        answers = []
        for first in range(rows.start, rows.stop, AT_ONCE):
            few = np.arange(first, min(first + AT_ONCE, rows.stop))
            outputs, keys, times = self._outputs(serving, few)
            mixed, anchor = serving.mixed(outputs), outputs[serving.anchor_index]
            found = cache.correction(serving.anchor, anchor, keys, times, mixed.shape[1])
            answers.append((mixed if found is None else found.of(mixed)).argmax(axis=1))
            come = labelled[(due >= first) & (due <= few[-1])]
            if len(come):
                outputs, keys, times = self._outputs(serving, come)
                y, anchor = self._stream.label[come], outputs[serving.anchor_index]
                own = np.flatnonzero(come >= self._since)
                mine = (anchor.take(own), [KEY] * len(own), [times[n] for n in own])
                cache.weigh(serving.anchor, *mine, y[own].tolist(), serving.mixed(outputs)[own])
                cache.hear(serving.anchor, anchor, keys, come.tolist(), times, y.tolist())
                serving = serving.told([out.take(own) for out in outputs], y[own])
        return np.concatenate(answers)

    def _outputs(
        self, serving: Serving, rows: Ints
    ) -> tuple[list[Outputs], list[tuple[str, str]], list[int]]:
        outputs = serving.outputs(self._stream.windows.x[rows])
        return outputs, [KEY] * len(rows), [self._stream.t_ns(row) for row in rows.tolist()]


POLICIES: dict[str, type[Policy]] = {
    "never": Never,
    "labels": LabelsAlone,
    "periodic": Periodic,
    "statistics": StatisticsOnDrift,
    "full": FullOnDrift,
    "edgetuner": EdgeTuner,
}
