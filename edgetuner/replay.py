"""A recording through the exact code of the board: the same store, model, detectors, coordinator
and child.

Only the sockets are missing, and time is the recording's own: a cool-down of thirty seconds is
thirty seconds of windows. Training counts as instantaneous, so a replay is repeatable on any
machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgetuner.adapt.coordinator import Coordinator
from edgetuner.config import Config
from edgetuner.data import WindowSet
from edgetuner.drift.monitor import Finding
from edgetuner.errors import ConfigError, DataError
from edgetuner.inference import ModelVersion, choose_device, limit_threads
from edgetuner.label_cache import LabelCache
from edgetuner.metrics import macro_f1
from edgetuner.pipeline import Pipeline, Predicted, describe_finding, watch_with
from edgetuner.registry import Registry
from edgetuner.serving import Serving
from edgetuner.simulate import Script, in_bouts, spacing
from edgetuner.store import Entry, LabelEntry, Store
from edgetuner.telemetry import open_telemetry

_CLIENT, _STREAM = "replay", "recording"


@dataclass
class Replayed:
    """What a replay gave.

    Attributes:
        predicted, y, phase: class index, truth and phase of each window, in order.
        versions: which model version predicted it.
        events: (window number, topic, data) of everything that happened.
    """

    predicted: list[int] = field(default_factory=list)
    y: list[int] = field(default_factory=list)
    phase: list[int] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    def to_wire(self) -> dict[str, Any]:
        """A report: macro-F1 by phase and version, and the events."""
        y, predicted, phase = np.array(self.y), np.array(self.predicted), np.array(self.phase)
        versions = np.array(self.versions)
        rows = []
        for number in np.unique(phase):
            for version in dict.fromkeys(versions[phase == number]):
                mine = (phase == number) & (versions == version)
                rows.append(
                    {
                        "phase": int(number),
                        "model": str(version),
                        "windows": int(mine.sum()),
                        "macro_f1": round(macro_f1(y[mine], predicted[mine]), 4),
                    }
                )
        events = [{"window": n, "event": topic, **data} for n, topic, data in self.events]
        return {"windows": len(self.y), "phases": rows, "events": events}


async def replay(
    config: Config,
    phases: Sequence[WindowSet],
    script: Script,
    state_dir: Path,
    on_event: Callable[[int, str, dict[str, Any]], None] | None = None,
) -> Replayed:
    """Plays the phases one after the other, as one stream.

    Args:
        config: the service's; its sockets and its state directory are not touched.
        phases: windows of the bundle's shape and classes.
        script: bouts and labels; its rate does not matter.
        state_dir: an empty folder for versions and jobs.
        on_event: called with the number of the window, the topic and the data of each event.

    Raises:
        ConfigError: no bundle is configured.
        DataError: the windows do not fit the model.
        EdgetunerError: the bundle cannot be read, or the folder not be written.
    """
    bundle = config.bundle
    if bundle is None:
        raise ConfigError(
            "needed for a replay", field="bundle", remedy="name one in the configuration"
        )
    config = config.model_copy(update={"state_dir": state_dir})
    registry = Registry(state_dir / "models", config.registry.keep)
    registry.install(registry.add(bundle))
    limit_threads(config.inference.threads)
    device = choose_device(config.inference.device)
    version = ModelVersion.load(
        registry.path("champion"),
        device=device,
        allow_factories=config.inference.allow_factories,
    )
    for windows in phases:
        _check(windows, version)
    player = _Player(config, registry, version, device, on_event)
    try:
        for number, windows in enumerate(phases):
            await player.play(number, windows, script)
    finally:
        await player.close()
    return player.replayed


class _Player:
    """The service's parts around one recording."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        version: ModelVersion,
        device: str,
        on_event: Callable[[int, str, dict[str, Any]], None] | None,
    ) -> None:
        manifest = version.manifest
        store = Store.open(
            None,
            shape=(len(manifest.channels), manifest.length),
            classes=manifest.classes,
            durability="memory",
            max_bytes=config.store.max_mb * 1024 * 1024,
        )
        cache = LabelCache() if config.inference.label_cache else None
        self._pipeline = Pipeline(store, Serving(version), watch_with(config, version), cache)
        self._telemetry = open_telemetry(config.telemetry.sources, config.telemetry.interval_s)
        self._on_event = on_event
        self._seq = 0
        self._t_ns = 0
        self._due: deque[tuple[int, LabelEntry]] = deque()
        self.replayed = Replayed()
        self._coordinator = Coordinator(
            lambda: config,
            self._pipeline,
            registry,
            self._telemetry,
            self._publish,
            device,
            clock=lambda: self._t_ns / 1e9,
        )

    async def play(self, phase: int, windows: WindowSet, script: Script) -> None:
        """Plays one phase, window by window."""
        draw = np.random.default_rng([script.seed, phase])
        length_s = windows.length / windows.hz
        order = in_bouts(windows, script.bout)
        apart_s = spacing(windows, order, script.hop_s or length_s, length_s)
        for row, step_s in zip(order, apart_s, strict=True):
            self._t_ns += round(1e9 * step_s)
            labelled = bool(draw.random() < script.label_share)
            await self._window(windows, int(row), phase, labelled, script.label_delay)

    async def close(self) -> None:
        """Ends the threads."""
        await self._pipeline.close()
        self._telemetry.close()

    async def _window(
        self, windows: WindowSet, row: int, phase: int, labelled: bool, delay: int
    ) -> None:
        y = int(windows.y[row])
        entry = Entry(_CLIENT, _STREAM, self._seq, self._t_ns, windows.x[row], crc32=self._seq)
        if labelled:
            label = LabelEntry(_CLIENT, _STREAM, self._seq, y, self._t_ns)
            self._due.append((self._seq + delay, label))
        self._seq += 1
        receipts = await self._pipeline.stored(lambda store: store.add([entry]))
        stored = [receipt.window for receipt in receipts if receipt.window is not None]
        predicted, findings = await self._pipeline.predict(stored)
        self._note(predicted, y, phase)
        self._tell(findings)
        self._coordinator.on_predictions(len(predicted))
        due = []
        while self._due and self._due[0][0] < self._seq:
            due.append(self._due.popleft()[1])
        if due:
            _, findings = await self._pipeline.label(due)
            self._tell(findings)
            self._coordinator.on_labels()
        await self._coordinator.consider()

    def _note(self, predicted: Sequence[Predicted], y: int, phase: int) -> None:
        for one in predicted:
            self.replayed.predicted.append(one.predicted)
            self.replayed.versions.append(one.version)
            self.replayed.y.append(y)
            self.replayed.phase.append(phase)

    def _tell(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self._publish(f"event.{finding.kind}", describe_finding(finding))
        self._coordinator.on_findings(findings)

    def _publish(self, topic: str, data: dict[str, Any]) -> None:
        if topic.startswith("event."):
            self.replayed.events.append((self._seq, topic, data))
            if self._on_event is not None:
                self._on_event(self._seq, topic, data)


def _check(windows: WindowSet, version: ModelVersion) -> None:
    manifest = version.manifest
    for name, value, wanted in (
        ("channels", len(windows.channels), len(manifest.channels)),
        ("length", windows.length, manifest.length),
        ("hz", windows.hz, manifest.hz),
        ("classes", windows.classes, manifest.classes),
    ):
        if value != wanted:
            raise DataError(
                "the recording does not fit the bundle",
                field=name,
                value=value,
                remedy=f"the bundle has {wanted}",
            )
