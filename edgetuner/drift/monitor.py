"""Detectors over every stream: findings, and the window where the present context began.

Windows of a stream wait until there are some, and are then looked at together: numpy takes hardly
longer for eight than for one, and whatever is worth finding lasts longer than that. A window that
its sensor cannot have meant is no evidence of anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.drift.cusum import SHIFT, Cusum
from edgetuner.drift.error import LabelledError
from edgetuner.drift.histogram import Histogram
from edgetuner.drift.reference import DETECTORS, Calibration, Reference
from edgetuner.drift.sensor import Health, SensorCheck, SensorProfile, SensorSettings
from edgetuner.errors import BusyError, DriftError

ABOUT = 3  # windows to which the beginnings of a drift and of a fault are known
_TOLD = 512  # streams that the state is about, since a message has its limits
_QUIET = 50  # windows in a row in which no detector may be above its threshold, for a drift to pass
TOGETHER = 8  # windows of a stream that are looked at at once, while its sensor is sound


class StreamKey(NamedTuple):
    """One sensor of one client."""

    client: str
    stream: str


@dataclass(frozen=True)
class MonitorSettings:
    """How streams are watched.

    Attributes:
        warn_fraction: share of a threshold above which a detector warns, once until it has calmed
            down.
        max_streams: streams watched at once.
        sensor: what counts as a fault of the sensor.
    """

    warn_fraction: float = 0.6
    max_streams: int = 64
    sensor: SensorSettings = field(default_factory=SensorSettings)


@dataclass(frozen=True)
class Finding:
    """Something to tell about a stream.

    Attributes:
        kind: a "warn" may pass; a "drift" stays until it is answered, or until "drift_over": it
            passed by itself; a "sensor_fault" lasts until "sensor_ok".
        detector: its name; for a sensor the fault.
        key: the stream.
        seq: the window at which it shows, told when the window and up to seven more are looked at.
        onset_seq: the window at which it probably began (for "sensor_ok": the first good window;
            for "drift_over" the one at which the detector was back at zero).
        statistic: the CUSUM; None for a sensor.
        threshold: what it is compared with; None for a sensor.
        channel: index of the faulty channel, where there is one.
    """

    kind: Literal["warn", "drift", "drift_over", "sensor_fault", "sensor_ok"]
    detector: str
    key: StreamKey
    seq: int
    onset_seq: int
    statistic: float | None = None
    threshold: float | None = None
    channel: int | None = None


class _Watch:
    """One detector on one stream."""

    __slots__ = ("cusum", "onset_seq", "warned")

    def __init__(self, cusum: Cusum) -> None:
        self.cusum = cusum
        self.onset_seq = 0
        self.warned = False

    def moved(self, seq: int) -> None:
        """The statistic took in a window."""
        if self.cusum.onset <= 1:  # just left zero, or still there
            self.onset_seq, self.warned = seq, False


class _Waiting(NamedTuple):
    """A window that waits to be looked at."""

    seq: int
    x: NDArray[Any]
    wrong_rate: bool
    embedding: NDArray[Any]
    predicted: int
    confidence: float
    label: int | None = None  # where it came with the window
    current: bool = True  # whether the version that is watched gave the answer


class _Stream:
    """All that is known of one stream."""

    __slots__ = (
        *("context_before", "context_start", "drift", "effects", "errors", "histogram"),
        *("ordinary", "quiet", "sensor", "seq", "waiting", "watches", "windows"),
    )

    def __init__(self, sensor: SensorCheck | None) -> None:
        self.sensor = sensor
        self.watches: dict[str, _Watch] = {}
        self.errors: LabelledError | None = None
        self.histogram: Histogram | None = None
        # What was acknowledged: how strange a window of each kind may be, for each detector.
        self.ordinary: dict[str, dict[int, float]] = {}
        self.context_start = 0
        self.context_before = 0  # the same before the drift that waits
        self.drift: Finding | None = None  # the one that waits for an answer
        self.quiet = 0  # windows since a detector was above its threshold
        self.effects: dict[str, dict[int, float]] = {}  # what it was made of when it was found
        self.seq: int | None = None
        self.waiting: list[_Waiting] = []
        self.windows = 0  # looked at for drift since the last swap or acknowledgement


class DriftMonitor:
    """Watches every stream with every detector.

    After a drift a stream stays drifted, and nothing more is found, until `swap` or `acknowledge`,
    until its sensor turns out to have been broken since before, or until so many windows are as
    they should be that its detector is back at zero. Else a false alarm that nobody answers would
    hide the change that comes after it.

    Args:
        reference: calibrated reference of the model version that makes the predictions.
        settings: see `MonitorSettings`.
        profile: what the source's sensor can do; without one, sensors are not checked.

    Raises:
        DriftError: the reference has no thresholds.
    """

    def __init__(
        self,
        reference: Reference,
        settings: MonitorSettings | None = None,
        profile: SensorProfile | None = None,
    ) -> None:
        self._settings = settings or MonitorSettings()
        self._profile = profile
        self._streams: dict[StreamKey, _Stream] = {}
        self._reference, self._calibration = reference, _calibrated(reference)

    def update(
        self,
        key: tuple[str, str],
        seq: int,
        x: ArrayLike,
        embedding: ArrayLike,
        predicted: int,
        confidence: float,
        *,
        label: int | None = None,
        t_ns: int | None = None,
        hz: float | None = None,
    ) -> list[Finding]:
        """Take one window x (C, T) and its embedding (D,), class and confidence."""
        return self.update_many(
            [key],
            [seq],
            np.asarray(x)[None],
            np.asarray(embedding)[None],
            [predicted],
            [confidence],
            labels=[label],
            t_ns=[t_ns],
            hz=[hz],
        )

    def update_many(
        self,
        keys: Sequence[tuple[str, str]],
        seqs: Sequence[int],
        x: ArrayLike,
        embeddings: ArrayLike,
        predicted: ArrayLike,
        confidence: ArrayLike,
        *,
        labels: Sequence[int | None] | None = None,
        t_ns: Sequence[int | None] | None = None,
        hz: Sequence[float | None] | None = None,
    ) -> list[Finding]:
        """Take N windows of any streams, in order within each: far cheaper than one by one.

        Args:
            keys: stream of each window. seqs: its sequence number.
            x: raw windows (N, C, T). embeddings: (N, D).
            predicted: class index (N,). confidence: highest softmax probability (N,).
            labels: true class, where a window came with it; `label` takes those that come later.
            t_ns: time stamps, where known. hz: rates that the sender states, where it does.

        Returns:
            What is new, of each stream in the order of its windows. A window may have to wait for
            the next seven of its stream.

        Raises:
            DriftError: embeddings that do not fit the reference or are not finite; nothing was
                taken in.
            BusyError: too many streams; nothing was taken in.
        """
        embeddings, predicted = np.asarray(embeddings), np.asarray(predicted)
        confidence = np.asarray(confidence)
        self._reference.check(embeddings, predicted, confidence)
        x, streams = np.asarray(x), self._admit(keys)
        findings: list[Finding] = []
        rows = zip(streams, seqs, predicted.tolist(), confidence.tolist(), strict=True)
        for i, (stream, seq, answer, sure) in enumerate(rows):
            stream.seq, wrong_rate = seq, False
            if stream.sensor is not None:
                wrong_rate = stream.sensor.wrong_rate(
                    seq, t_ns[i] if t_ns else None, hz[i] if hz else None
                )
            # Copies, lest they keep all of the others in memory.
            label = labels[i] if labels else None
            window = _Waiting(
                seq, x[i].copy(), wrong_rate, embeddings[i].copy(), answer, sure, label
            )
            stream.waiting.append(window)
        for key, stream in zip(keys, streams, strict=True):
            hurried = stream.sensor is not None and stream.sensor.health.suspect
            if len(stream.waiting) >= (1 if hurried else TOGETHER):
                findings += self._look(StreamKey(*key), stream)
        return findings

    def _look(self, key: StreamKey, stream: _Stream) -> list[Finding]:
        """Looks at all windows that wait: first whether the sensor meant them."""
        waiting, stream.waiting = stream.waiting, []
        seqs = [window.seq for window in waiting]
        sensor, findings = stream.sensor, list[Finding]()
        fault = sensor.health.fault if sensor else None
        healths = [Health()] * len(waiting)
        if sensor is not None:
            x = np.array([window.x for window in waiting])
            healths = sensor.look(x, seqs, [window.wrong_rate for window in waiting])
        scores = self._scores([window for window in waiting if window.current])
        for window, health in zip(waiting, healths, strict=True):
            if health.fault != fault:
                findings.append(_of_sensor(stream, fault, health, key, window.seq))
                fault = health.fault
            score = next(scores) if window.current else None
            if score is None or health.suspect:
                continue
            self._histogram(stream).update(window.predicted)
            moved = self._moved(stream, score, window.predicted, window.seq)
            if stream.drift is None:
                findings += self._judge_all(stream, moved, key, window.seq)
            elif _passed(stream, stream.drift, moved):
                findings.append(_over(stream, stream.drift, key, window.seq))
            if window.label is not None:
                findings += self._label(key, stream, window.seq, window.label, window.predicted)
        return findings

    def _scores(self, windows: Sequence[_Waiting]) -> Iterator[Sequence[float]]:
        """Of each window, what each detector makes of it."""
        if not windows:
            return iter(())
        scores = self._reference.scores(
            np.array([window.embedding for window in windows]),
            np.array([window.predicted for window in windows]),
            np.array([window.confidence for window in windows]),
        )
        return zip(*(values.tolist() for values in scores.values()), strict=True)

    def label(self, key: tuple[str, str], seq: int, label: int, predicted: int) -> list[Finding]:
        """Take a label that was given to a window, and the class that the watched version gave it.

        Labels of windows that another version predicted say nothing about this one: leave them out.
        """
        stream = self._streams.get(StreamKey(*key))
        if stream is None or (stream.sensor and stream.sensor.health.suspect):
            return []
        return self._label(StreamKey(*key), stream, seq, label, predicted)

    def _label(
        self, key: StreamKey, stream: _Stream, seq: int, label: int, predicted: int
    ) -> list[Finding]:
        errors = self._reference.errors
        threshold = self._calibration.thresholds.get("error")
        if errors is None or threshold is None or seq < stream.context_start:
            return []
        if stream.drift is not None and stream.drift.detector != "error":
            return []
        watch = stream.watches.get("error")
        if stream.errors is None or watch is None:
            stream.errors = LabelledError(errors, threshold)
            watch = stream.watches["error"] = _Watch(stream.errors.cusum)
        stream.errors.update(label != predicted, predicted)
        watch.moved(seq)
        moved = {"error": watch}
        if stream.drift is None:
            return self._judge_all(stream, moved, key, seq)
        passed = _passed(stream, stream.drift, moved)
        return [_over(stream, stream.drift, key, seq)] if passed else []

    def context_start(self, key: tuple[str, str]) -> int:
        """First window of the present context: where the last drift began, or 0 before any."""
        stream = self._streams.get(StreamKey(*key))
        return stream.context_start if stream else 0

    def drifted(self, key: tuple[str, str]) -> bool:
        """Whether a drift of this stream waits for an answer."""
        stream = self._streams.get(StreamKey(*key))
        return stream is not None and stream.drift is not None

    def fault(self, key: tuple[str, str]) -> str | None:
        """The sensor fault that stands on this stream, or None."""
        stream = self._streams.get(StreamKey(*key))
        return stream.sensor.health.fault if stream and stream.sensor else None

    def sound(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Which of the windows x (N, C, T) show no fault of the sensor, each by itself, (N,)."""
        windows = np.asarray(x)
        if self._profile is None:
            return np.ones(len(windows), bool)
        faults = self._profile.inspect(windows, self._settings.sensor).faults
        return np.array([fault is None for fault in faults], bool)

    def swap(self, reference: Reference) -> None:
        """Watch a new model version: statistics start afresh, context starts stay.

        Raises:
            DriftError: the reference has no thresholds; the old one stays.
        """
        self._calibration = _calibrated(reference)
        self._reference = reference
        for stream in self._streams.values():
            stream.ordinary = {}
            stream.waiting = [window._replace(current=False) for window in stream.waiting]
            _restart(stream)

    def acknowledge(self, key: tuple[str, str]) -> None:
        """Answer a drift without a new model: it was none. The context start stays.

        What it was made of is ordinary for this stream from now on, kind by kind, and does not
        raise the same alarm again and again.
        """
        stream = self._streams.get(StreamKey(*key))
        if stream is None:
            return
        if stream.drift is not None:
            _take_for_ordinary(stream, _effects(stream))
        _restart(stream)

    def forget(self, key: tuple[str, str]) -> None:
        """Make room: drop all that is known of a stream that has gone."""
        self._streams.pop(StreamKey(*key), None)

    def state(self) -> dict[str, Any]:
        """All of it as JSON-compatible values, for the status topic; of very many streams those
        that have drifted or are faulty, and some of the rest.
        """
        told = sorted(self._streams.items(), key=lambda item: _calm(item[1]))[:_TOLD]
        return {
            "detectors": dict(self._calibration.thresholds),
            "run_length": self._calibration.run_length,
            "data_hash": self._reference.data_hash,
            "streams": [_describe(key, stream) for key, stream in told],
        }

    def _admit(self, keys: Sequence[tuple[str, str]]) -> list[_Stream]:
        found = map(self._streams.get, cast("Sequence[StreamKey]", keys))
        known = [stream for stream in found if stream is not None]
        if len(known) == len(keys):  # as good as always
            return known
        new = {StreamKey(*key) for key in keys} - self._streams.keys()
        if len(self._streams) + len(new) > self._settings.max_streams:
            raise BusyError(
                "too many streams",
                field="drift.max_streams",
                value=len(self._streams) + len(new),
                remedy=f"raise the limit of {self._settings.max_streams} or forget old ones",
            )
        for key in new:
            sensor = SensorCheck(self._profile, self._settings.sensor) if self._profile else None
            self._streams[key] = _Stream(sensor)
        return [self._streams[StreamKey(*key)] for key in keys]

    def _moved(
        self, stream: _Stream, scores: Sequence[float], predicted: int, seq: int
    ) -> dict[str, _Watch]:
        """The detectors, which have taken in a window: a drift that waits is still learned from."""
        stream.windows += 1
        moved = {}
        for name, score in zip(DETECTORS, scores, strict=True):
            watch = stream.watches.get(name)
            if watch is None:
                watch = stream.watches[name] = _Watch(self._cusum(name))
            if stream.ordinary:
                score -= stream.ordinary.get(name, {}).get(predicted, 0.0)
            watch.cusum.update(score, predicted)
            watch.moved(seq)
            moved[name] = watch
        return moved

    def _judge_all(
        self, stream: _Stream, moved: dict[str, _Watch], key: StreamKey, seq: int
    ) -> list[Finding]:
        findings = []
        for name, watch in moved.items():
            kind = self._judge(watch)
            if kind is not None:
                cusum = watch.cusum
                findings.append(
                    Finding(kind, name, key, seq, watch.onset_seq, cusum.statistic, cusum.threshold)
                )
        drifts = [finding for finding in findings if finding.kind == "drift"]
        if drifts:
            # Two detectors may fire at once; the earlier onset leaves no window of the new context
            # out.
            stream.drift = min(drifts, key=lambda finding: finding.onset_seq)
            stream.effects, stream.quiet = _effects(stream), 0
            stream.context_before = stream.context_start
            stream.context_start = max(stream.context_start, stream.drift.onset_seq)
        return findings

    def _judge(self, watch: _Watch) -> Literal["warn", "drift"] | None:
        if watch.cusum.drift_detected:
            return "drift"
        warning = watch.cusum.statistic > self._settings.warn_fraction * watch.cusum.threshold
        if warning and not watch.warned:
            watch.warned = True
            return "warn"
        return None

    def _cusum(self, name: str) -> Cusum:
        return Cusum(self._calibration.thresholds[name], self._reference.scales[name].spread)

    def _histogram(self, stream: _Stream) -> Histogram:
        if stream.histogram is None:
            reference = self._reference
            stream.histogram = Histogram(reference.held_predicted, len(reference.classes))
        return stream.histogram


def _calibrated(reference: Reference) -> Calibration:
    calibration = reference.calibration
    if calibration is None or not DETECTORS.keys() <= calibration.thresholds.keys():
        raise DriftError(
            "drift reference has no thresholds for these detectors",
            field="reference",
            value=sorted(calibration.thresholds) if calibration else None,
            remedy="calibrate it first",
        )
    return calibration


def _restart(stream: _Stream) -> None:
    stream.watches = {}
    stream.errors = None
    stream.histogram = None
    stream.drift = None
    stream.windows = 0


def _effects(stream: _Stream) -> dict[str, dict[int, float]]:
    """How strange each kind of window was to each detector."""
    names = DETECTORS.keys() & stream.watches.keys()
    return {name: stream.watches[name].cusum.effects() for name in names}


def _take_for_ordinary(
    stream: _Stream, effects: dict[str, dict[int, float]], most: float = np.inf
) -> None:
    """What is as strange as that is no news any more, up to `most` of each kind."""
    for name, of_kinds in effects.items():
        known = stream.ordinary.setdefault(name, {})
        for kind, effect in of_kinds.items():
            before = known.get(kind, 0.0)
            known[kind] = max(before, min(before + effect, most))


def _passed(stream: _Stream, drift: Finding, moved: dict[str, _Watch]) -> bool:
    """Whether no detector has seen anything of a drift for a while, and the one that found it is
    back at zero. One that comes and goes is a drift: its context has to begin where it first did.
    """
    loud = any(watch.cusum.drift_detected for watch in moved.values())
    stream.quiet = 0 if loud else stream.quiet + 1
    watch = moved.get(drift.detector)
    return stream.quiet >= _QUIET and watch is not None and watch.cusum.statistic == 0


def _over(stream: _Stream, drift: Finding, key: StreamKey, seq: int) -> Finding:
    """Nothing had changed, or it is again as it was: the context of before goes on, and what the
    alarm was made of is more ordinary than it was. But nobody said that it was none: what is as
    strange as can be stays evidence.
    """
    _take_for_ordinary(stream, stream.effects, SHIFT / 2)
    stream.drift, stream.context_start = None, stream.context_before
    return Finding("drift_over", drift.detector, key, seq, seq, 0.0, drift.threshold)


def _of_sensor(
    stream: _Stream, before: str | None, health: Health, key: StreamKey, seq: int
) -> Finding:
    """A fault of the sensor that began or is over."""
    if health.fault is None:
        return Finding("sensor_ok", before or "", key, seq, health.since_seq)
    _take_back(stream, health.since_seq)
    fault, channel = health.fault, health.channel
    return Finding("sensor_fault", fault, key, seq, health.since_seq, channel=channel)


def _take_back(stream: _Stream, since_seq: int) -> None:
    """Forget what was taken for a change of the world since a fault of the sensor began."""
    since_seq -= ABOUT
    if stream.drift is not None and stream.drift.onset_seq >= since_seq:
        _restart(stream)
        stream.context_start = stream.context_before
    elif stream.drift is None:
        rising = stream.watches.items()
        stream.watches = {name: watch for name, watch in rising if watch.onset_seq < since_seq}


def _calm(stream: _Stream) -> bool:
    return stream.drift is None and not (stream.sensor and stream.sensor.health.fault)


def _describe(key: StreamKey, stream: _Stream) -> dict[str, Any]:
    return {
        "client": key.client,
        "stream": key.stream,
        "seq": stream.seq,
        "windows": stream.windows,
        "waiting": len(stream.waiting),
        "drifted": stream.drift is not None,
        "detector": stream.drift.detector if stream.drift else None,
        "context_start": stream.context_start,
        "sensor_fault": stream.sensor.health.fault if stream.sensor else None,
        "statistics": {name: watch.cusum.statistic for name, watch in stream.watches.items()},
    } | _predicted(stream)


def _predicted(stream: _Stream) -> dict[str, Any]:
    """What is predicted how often lately: for people, since life changes it and drift need not."""
    histogram = stream.histogram
    if histogram is None or histogram.stability_index is None:
        return {}
    return {
        "predicted": list(histogram.counts),
        "stability_index": round(histogram.stability_index, 4),
    }
