"""From drift to a swap, and back if it was wrong: one coroutine, told once.

    watching -> drifted -> admitted -> training -> gate -> swapped in, on probation -> promoted
                   |           |          |          |                    |
                deferred    (waits)    failed     refused            rolled back

Whatever fails leaves the champion untouched and says why, on the status socket and in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import datetime, timezone
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from edgetuner.adapt import job as jobs
from edgetuner.adapt.admission import Situation, hindrance, refusal
from edgetuner.adapt.answers import Answers, answers_of
from edgetuner.adapt.belief import Belief
from edgetuner.adapt.child import Progress as Hears
from edgetuner.adapt.child import train
from edgetuner.adapt.faults import Faults
from edgetuner.adapt.gate import Verdict
from edgetuner.adapt.guess import guessed
from edgetuner.adapt.job import Ask, Job, Windows
from edgetuner.adapt.judge import Judge, apart
from edgetuner.adapt.probation import Probation
from edgetuner.adapt.progress import Progress
from edgetuner.adapt.recurrence import Recurrence, at_home, knows
from edgetuner.config import Config
from edgetuner.drift.monitor import Finding
from edgetuner.errors import AdaptationError, BusyError, EdgetunerError, RegistryError
from edgetuner.inference import ModelVersion
from edgetuner.metrics import macro_f1
from edgetuner.pipeline import Pipeline
from edgetuner.registry import Registry
from edgetuner.serving import Serving
from edgetuner.store import Context
from edgetuner.telemetry import Sample, Telemetry

StreamKey = tuple[str, str]
Publish = Callable[[str, dict[str, Any]], None]
Train = Callable[[Job, Hears, Sequence[str]], Coroutine[Any, Any, dict[str, Any]]]

_DAY_S = 86_400.0
_TICK_S = 1.0  # cool-downs and free memory change without anybody saying so
_LATER = 1000  # labelled windows, newest first, that a gate or a probation looks at
_MORE = 1.4  # times the labels of a candidate that was refused, before the next one
_MORE_CLASSES = 1.5  # times those that a version was trained on, for it to be made anew
_PATIENCE_S = 2.0  # an operator's request waits; shorter than his client does


class Coordinator:
    """Decides when to adapt, has it done, and watches over the result.

    Args:
        config: gives the configuration in force, which a reload may change.
        pipeline: the live path.
        registry: versions on disk.
        telemetry: for admission, and told which phase energy is used in.
        publish: (topic, data) to the status socket.
        device: where candidates are loaded, `cpu` or `cuda`.
        clock: seconds that cool-downs and a day's energy are counted in.
        train: does a job instead of a process of its own, as `child.train` does.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        pipeline: Pipeline,
        registry: Registry,
        telemetry: Telemetry,
        publish: Publish,
        device: str,
        clock: Callable[[], float] = time.monotonic,
        train: Train | None = None,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._registry = registry
        self._telemetry = telemetry
        self._publish = publish
        self._device = device
        self._clock = clock
        self._replacement = train
        self._jobs = config().state_dir / "jobs"
        self._wake = asyncio.Event()
        self._busy = asyncio.Lock()  # one transition at a time: adaptation, review, operator
        self._drifted: dict[StreamKey, str] = {}
        self._alarms: dict[StreamKey, int] = {}  # the window at which each drift was found
        self._onsets: dict[StreamKey, int] = {}  # the one at which it probably began
        self._faults = Faults()
        self._requested: str | None = None
        self._training: asyncio.Task[dict[str, Any]] | None = None
        self._probation: Probation | None = None
        self._failures = 0
        self._not_before = float("-inf")
        self._spent_j: list[tuple[float, float]] = []
        self.state = "watching"
        self.paused = False
        self.deferred: str | None = None
        self._problem: str | None = None
        self._answers = Answers(pipeline)
        self._progress = Progress(telemetry)
        self._judge = Judge(config, self._answers)
        self._belief = Belief(config, self._answers)
        self._recurrence = Recurrence({})
        self._since_alarm = 0  # labelled windows
        self._refused_with = 0  # labelled windows, when a candidate was refused last
        self._learned: int | None = None  # labelled classes that the live version was trained on
        self._news_of_labels = False
        self.counts = dict.fromkeys(
            ("adaptations", "reuses", "swaps", "refused", "failed", "promotions", "rollbacks"), 0
        )
        self.last: dict[str, Any] = {}
        self.board: Sample | None = None  # the latest reading; whoever reads the board sets it

    # ------------------------------------------------------------------ what it is told

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """The detectors found something."""
        for finding in findings:
            self._faults.note(finding)
            if finding.kind == "drift" and self._config().drift.enabled:
                self._drifted[finding.key] = f"{finding.detector} drift in {'/'.join(finding.key)}"
                self._alarms[finding.key] = finding.seq
                self._onsets[finding.key] = finding.onset_seq
                self._wake.set()
            elif (
                finding.kind == "sensor_fault"
                and finding.key in self._drifted
                and finding.onset_seq <= self._onsets[finding.key]
            ):  # the sensor was what drifted
                del self._drifted[finding.key]
                if not self._drifted and self.state == "drifted":
                    self.state, self.deferred = "watching", None  # nothing waits any more
                self._wake.set()

    def on_predictions(self, count: int) -> None:
        """`count` more windows were predicted."""
        if self._probation is not None:
            self._probation.windows += count
            self._wake.set()

    def on_labels(self) -> None:
        """More windows have labels."""
        self._news_of_labels = True
        self._wake.set()

    def describe(self) -> dict[str, Any]:
        """The state, for the status socket."""
        about: dict[str, Any] = {"state": "paused" if self.paused else self.state, **self.counts}
        if self._drifted:
            about["drifted"] = self._drifted_names()
        if self.deferred is not None:
            about["deferred"] = self.deferred
        if self._progress.now:
            about["progress"] = self._progress.now
        if self._probation is not None:
            about["probation"] = self._probation.to_wire()
        return about | ({"last": self.last} if self.last else {})

    # ------------------------------------------------------------------ what operators ask

    def request(self, why: str, *, trust_labels: bool = False) -> None:
        """Adapt as soon as it is admitted, drift or not. Raises BusyError if one is under way.

        Args:
            why: kept in the history.
            trust_labels: the labels are right, even where they contradict the model.
        """
        if self.paused or self.state in ("training", "gate", "probation"):
            raise BusyError(
                "cannot begin an adaptation now",
                field="adapt",
                value=self.describe()["state"],
                remedy="wait until it is over, or resume; `edgetuner status` shows it",
            )
        self._requested, self._belief.vouched = why, trust_labels
        self._not_before = float("-inf")
        self._wake.set()

    def pause(self) -> None:
        """Start no adaptation; end the training under way. The live model keeps predicting."""
        self.paused = True
        if self._training is not None:
            self._training.cancel()
        self._tell()

    def resume(self) -> None:
        """Adapt again when it is called for."""
        self.paused = False
        self._wake.set()
        self._tell()

    async def promote(self, version: str, reason: str) -> str:
        """Makes a version the champion, now. Returns its id."""
        path = self._registry.path(version)
        async with self._transition():
            loaded = await self._load(path)
            self._registry.promote(path.name, reason)
            await self._serve(Serving(loaded))
            self.counts["promotions"] += 1
            self._settle("promoted", version=path.name, reason=reason)
        return path.name

    async def rollback(self, reason: str) -> str:
        """Takes back the version on probation, or else the champion. Returns the version live
        now.
        """
        async with self._transition():
            if self._probation is not None:
                return await self._roll_back(self._probation, reason)
            if self._registry.aliases.previous is None:
                raise RegistryError(
                    "there is no previous version to go back to",
                    field="previous",
                    remedy="name one: `edgetuner models promote VERSION`",
                )
            loaded = await self._load(self._registry.path("previous"))
            version = self._registry.restore_previous(reason)
            await self._serve(Serving(loaded))
            self.counts["rollbacks"] += 1
            self._settle("rollback", version=version, reason=reason)
            return version

    # ------------------------------------------------------------------ what it does by itself

    async def run(self) -> None:
        """Considers the situation whenever it has changed, until cancelled."""
        while True:
            await self._news()
            self._wake.clear()
            try:
                await self.consider()
            except (
                EdgetunerError
            ) as error:  # such as a full disk: predictions go on, and it may pass
                self._trouble(error)
            else:
                self._problem = None

    async def _news(self) -> None:
        """Waits until something has changed, or for a tick.

        Not by `wait_for`: before Python 3.12 it forgets a cancellation that comes along with news,
        and the service would never end.
        """
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait([waking], timeout=_TICK_S)
        finally:
            waking.cancel()

    async def consider(self) -> None:
        """One look at the situation, and the step that it calls for."""
        async with self._busy:
            if self._probation is not None:
                await self._review(self._probation)
            elif not self.paused and (
                self._drifted or self._requested is not None or await self._has_shown_more()
            ):
                await self._adapt()

    async def _has_shown_more(self) -> bool:
        """Whether the context that the live version was trained on has by now shown half as many
        activities more, so that the version is to be made anew.
        """
        if self._learned is None or not self._news_of_labels:
            return False
        self._news_of_labels = False
        starts = await self._starts()
        counts = await self._pipeline.stored(lambda store: store.count_labels(starts))
        return int((counts > 0).sum()) >= ceil(_MORE_CLASSES * self._learned)

    async def _adapt(self) -> None:
        why = self._requested or "; ".join(self._drifted.values()) or "more activities are labelled"
        starts = await self._starts()
        # Reading thousands of windows at every label, only to count, would hold up the store.
        counts = await self._pipeline.stored(lambda store: store.count_labels(starts))
        situation = self._situation(int(counts.sum()), int((counts > 0).sum()))
        reason = hindrance(situation)
        if reason is None and await self._recall(starts):
            return
        reason = reason or refusal(situation, self._config())
        if self._requested is None:
            gate = self._config().gate
            reason = reason or self._recurrence.waits(self._since_alarm, gate)
            reason = reason or self._unchanged(situation.labels)
        reason = reason or self._belief.standing(situation.labels)
        if reason is not None:
            self._defer(reason)
            return
        context = await self._context(starts)
        reason = refusal(self._situation_of(context), self._config())
        believed = reason or await self._belief.weigh(context, self._pipeline.version)
        if not isinstance(believed, str):
            context = believed
            reason = refusal(self._situation_of(context), self._config())
            believed = context if reason is None else self._belief.explain(reason)
        if isinstance(believed, str):
            self._defer(believed)
            return
        if self._requested is None and await self._known(context):
            return
        self._answered()
        self.counts["adaptations"] += 1
        try:
            since = await self._pipeline.stored(lambda store: store.next_seqs())
            job = await self._prepare(context, why)
            result = await self._train(job)
            candidate = await self._recheck(job)
            verdict = await self._gate(job, candidate, context, since)
            learned = len(np.unique(context.y[context.y >= 0]))
            self._stop_if_paused(job)
            self.last = {"job": job.ask.job, "rung": result["rung"], "gate": verdict.to_wire()}
            self.last["rungs"] = self._progress.rungs
            self.last |= {
                name: result[name]
                for name in ("train_seconds", "trained_fraction", "core_norm", "peak_rss_bytes")
                if name in result
            }
            if verdict.passed:
                await self._swap(candidate, verdict, learned)
            else:
                await self._refuse(job, verdict, situation.labels)
        except EdgetunerError as error:
            self.counts["failed"] += 1
            self._back_off()
            self._settle("adaptation_failed", error=error.to_wire())

    def _unchanged(self, labels: int) -> str | None:
        """Why a candidate would be no better than the one that was refused last, in words: hardly
        anything has been said since.
        """
        wanted = ceil(_MORE * self._refused_with)
        if labels >= wanted or labels < self._refused_with:  # or it is another context
            return None
        return (
            f"{labels} labelled windows, {wanted} are needed after the candidate that was refused"
        )

    async def _known(self, context: Context) -> bool:
        """Whether those who answer do as well in this context as at home, so that nothing has to be
        learned: what the detectors of the live version find strange, the one beside it may know.
        """
        # Only what they said before anybody could learn from it: on windows that a version was
        # trained on it is always right.
        before = context.version == self._pipeline.version.id
        labelled = context.take((context.y >= 0) & before)
        if len(labelled) < self._config().gate.min_windows:
            return False
        f1 = macro_f1(labelled.y, labelled.predicted)
        if not self._at_home(f1):
            return False
        self._answered()
        if self._learned is not None:
            self._learned = len(np.unique(labelled.y))
        if self._drifted:
            await self._acknowledge(f1)
        self.state = "watching"
        self._tell()
        return True

    def _at_home(self, f1: float | None) -> bool:
        """Whether that is as good as the live version was where it comes from, if it says so."""
        manifest = self._pipeline.version.manifest
        return "held_out_macro_f1" in manifest.metrics and at_home(f1, manifest)

    async def _acknowledge(self, f1: float | None) -> None:
        """Nothing had drifted, as far as labels tell."""
        for key in self._drifted:
            await self._pipeline.watched(lambda monitor, key=key: monitor.acknowledge(key))  # type: ignore[misc]
        home = self._pipeline.version.manifest.metrics.get("held_out_macro_f1")
        self._publish("event.false_alarm", {"champion_f1": f1, "home_f1": home})
        self._drifted.clear()

    async def _recall(self, starts: dict[StreamKey, int]) -> bool:
        """Whether an earlier version that knows this context was swapped in."""
        # From the alarm on, not from the onset: that is an estimate, and a few windows of the old
        # context among a dozen would speak for the live version.
        mine = {key: self._alarms[key] for key in self._drifted}
        if mine != self._recurrence.context:
            self._recurrence = Recurrence(mine)
        versions = await asyncio.to_thread(self._earlier) if mine else []
        counts = await self._pipeline.stored(lambda store: store.count_labels(mine))
        self._recurrence.versions = len(versions)
        self._since_alarm = int(counts.sum())
        if not versions or not self._recurrence.due(int(counts.sum()), self._config().gate):
            return False
        labelled = await self._pipeline.context(starts | mine, _LATER, labelled=True)
        # What the live version predicted came after it, and so after all that were before it.
        labelled = self._present(labelled.take(labelled.version == self._pipeline.version.id))
        settings = self._recurrence.ask(int(counts.sum()), self._judge.settings, len(versions))
        told, best = [], None
        for version in versions:
            try:
                candidate = await self._load(self._registry.path(version))
            except EdgetunerError as error:  # one that is damaged must not hold up the others
                told.append({"version": version, "error": error.to_wire()})
                continue
            verdict = await self._judge.verdict(candidate, labelled, settings)
            told.append({"version": version, **verdict.to_wire()})
            if knows(verdict, candidate.manifest) and (
                best is None or (verdict.candidate_f1 or 0) > (best[1].candidate_f1 or 0)
            ):
                best = candidate, verdict
        self._publish("event.recall", {"asked": told})
        if best is None:
            return False
        self._answered()
        self.counts["reuses"] += 1
        self.last = {"reused": True, "gate": best[1].to_wire()}
        await self._swap(*best)
        return True

    def _earlier(self) -> list[str]:
        """The latest versions that proved themselves, but for those who answer at present."""
        serving = self._pipeline.serving
        present = {serving.version.id, None if serving.beside is None else serving.beside.id}
        proven = [version for version in self._registry.proven() if version not in present]
        return proven[: self._config().adapt.reuse]

    def _answered(self) -> None:
        """What was asked for is being done."""
        self.deferred = self._requested = None
        self._belief.reset()

    async def _starts(self) -> dict[StreamKey, int]:
        """The first window of the present context of each stream: where it last drifted."""
        keys = await self._pipeline.stored(lambda store: list(store.next_seqs()))
        return await self._pipeline.watched(
            lambda monitor: {key: monitor.context_start(key) for key in keys}
        )

    async def _context(self, starts: dict[StreamKey, int]) -> Context:
        """The windows of the present context, without those of a faulty sensor.

        A stream that was not found to have drifted counts from the moment at which the first of the
        others did: what it did long before may not be the present.
        """
        most = self._config().adapt.max_windows
        return self._present(await self._pipeline.context(starts, most))

    def _present(self, context: Context) -> Context:
        context = context.take(~self._faults.cover(context))
        drifted = np.isin(context.stream, [context.keys.index(key) for key in self._drifted])
        if not drifted.any():
            return context
        return context.take(context.row >= context.row[drifted].min())

    def _situation(self, labels: int, classes: int) -> Situation:
        day_ago = self._clock() - _DAY_S  # not by the time of day, which jumps
        return Situation(
            labels=labels,
            classes=classes,
            known=len(self._pipeline.version.classes),
            faults=[name for name in self._faults.standing() if name in self._drifted_names()],
            board=self.board,
            spent_j=sum(j for t, j in self._spent_j if t > day_ago),
            wait_s=self._not_before - self._clock(),
        )

    def _situation_of(self, context: Context) -> Situation:
        labelled = context.y[context.y >= 0]
        return self._situation(len(labelled), len(np.unique(labelled)))

    async def _prepare(self, context: Context, why: str) -> Job:
        config = self._config()
        labelled = context.y >= 0
        facts = self._left_out()
        if labelled.sum() < config.adapt.min_labels:  # admitted to self-training
            context = await guessed(context, self._pipeline.version, self._answers)
            facts["guessed"] = int((context.y[~labelled] >= 0).sum())
            split = jobs.hold_out(
                labelled, context.stream, context.t_ns, window_ns=self._window_ns()
            )
        else:
            split = jobs.split(
                context.y,
                context.stream,
                context.t_ns,
                share=config.adapt.holdout,
                window_ns=self._window_ns(),
            )
        self._enter("training", "adaptation_started", why=why, **facts)
        windows = Windows(context.x, context.y, context.stream, context.t_ns, split)
        ask = Ask(
            job=jobs.new_id(self.counts["adaptations"]),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            why=why,
            settings=config.adapt,
            gate=self._judge.settings,
            false_alarm_windows=config.drift.run_length(self._window_ns() / 1e9),
        )
        base = self._registry.path(self._pipeline.version.id)
        # Before, and not after: on a board without a clock the newest job may have the oldest name.
        await asyncio.to_thread(jobs.prune, self._jobs, config.adapt.keep_jobs - 1)
        return await asyncio.to_thread(Job.create, self._jobs, ask, base, windows)

    async def _train(self, job: Job) -> dict[str, Any]:
        self._stop_if_paused(job)
        self._telemetry.phase("train")
        self._progress.begin()
        allowed = self._config().inference.allow_factories
        do = self._replacement or train
        training = self._training = asyncio.create_task(do(job, self._on_progress, allowed))
        try:
            await asyncio.wait([training])
            if training.cancelled():
                raise _stopped(job)
            return training.result()
        except asyncio.CancelledError:  # the service is going down
            training.cancel()
            await asyncio.wait([training])
            raise
        finally:
            self._training = None
            self._telemetry.phase("infer")
            self._spent_j.append((self._clock(), self._progress.end()))

    def _stop_if_paused(self, job: Job) -> None:
        if self.paused:
            raise _stopped(job)

    async def _recheck(self, job: Job) -> ModelVersion:
        """Takes the candidate into the registry and loads it from there, hashes and all, off the
        hot path.
        """
        self._enter("gate", "gate")
        await asyncio.to_thread(self._registry.add, job.path / jobs.CANDIDATE)
        return await self._load(self._registry.path(self._version_of(job)))

    @staticmethod
    def _version_of(job: Job) -> str:
        result = job.result() or {}
        return str(result["version"])

    async def _gate(
        self, job: Job, candidate: ModelVersion, context: Context, since: dict[StreamKey, int]
    ) -> Verdict:
        """Judges on the windows held out from training, and on those labelled since it began."""
        split = (await asyncio.to_thread(job.windows)).split
        held = context.take((split == jobs.HOLDOUT) & (context.y >= 0))
        later = await self._pipeline.context(since, _LATER, labelled=True)
        later = later.take(~self._faults.cover(later) & apart(later, context, self._window_ns()))
        return await self._judge.verdict(candidate, held.followed_by(later), job.ask.gate)

    async def _swap(
        self, candidate: ModelVersion, verdict: Verdict, learned: int | None = None
    ) -> None:
        starts = await self._pipeline.stored(lambda store: store.next_seqs())
        self._registry.begin_probation(candidate.id, verdict.reason)
        beside = self._anchor() if self._config().adapt.beside else None
        previous = await self._pipeline.swap(Serving(candidate, beside))
        self._probation = Probation(previous, starts, shared=beside is not None)
        self._refused_with, self._learned = 0, learned
        self._drifted.clear()
        self.counts["swaps"] += 1
        self._enter(
            "probation",
            "swap",
            version=candidate.id,
            previous=previous.version.id,
            **self.last,
        )

    def _anchor(self) -> ModelVersion:
        """Who answers beside a new version: the one that all adaptations go back to, which knows
        every activity from where it was made, or else the one that is live.
        """
        serving = self._pipeline.serving
        adapted = serving.version.manifest.adaptation is not None
        return serving.beside if adapted and serving.beside is not None else serving.version

    async def _refuse(self, job: Job, verdict: Verdict, labels: int) -> None:
        """The champion stays; and if it does as well as at home, nothing had drifted.

        Otherwise the drift goes on waiting for an answer: more labels may make a better candidate.
        """
        self.counts["refused"] += 1
        self._refused_with = labels
        self._judge.refusals += 1
        self._back_off()
        if self._at_home(verdict.champion_f1):
            await self._acknowledge(verdict.champion_f1)
            self._judge.refusals = 0
        await asyncio.to_thread(self._registry.prune)
        self._settle("refused", job=job.ask.job, **verdict.to_wire())

    async def _review(self, probation: Probation) -> None:
        await self._compare(probation)
        verdict = probation.verdict(self._config().probation)
        if verdict == "worse":
            await self._roll_back(
                probation, f"the previous version is better: {probation.summary()}"
            )
        elif verdict == "proven":
            serving, reason = self._pipeline.serving, probation.summary()
            version = serving.version.id
            beside = None if serving.beside is None else serving.beside.id
            self._registry.promote(version, reason, beside=beside)
            self._probation = None
            self._failures = self._judge.refusals = 0
            await asyncio.to_thread(self._registry.prune)
            self.counts["promotions"] += 1
            self._not_before = self._clock() + self._config().adapt.cooldown_s
            self._settle("promoted", version=version, reason=reason, **probation.to_wire())

    async def _compare(self, probation: Probation) -> None:
        """Lets the previous version predict what has been labelled since the last look."""
        context = await self._pipeline.context(probation.starts, _LATER, labelled=True)
        new = context.version == self._pipeline.version.id
        new &= ~np.isin(context.row, list(probation.right))
        if not new.any():
            return
        new &= ~self._faults.cover(context)
        y, live = context.y[new], context.predicted[new]
        previous = await answers_of(probation.previous, context.x[new])
        for row, a, b in zip(context.row[new], live == y, previous == y, strict=True):
            probation.right[int(row)] = (bool(a), bool(b))

    async def _roll_back(self, probation: Probation, reason: str) -> str:
        self._registry.end_probation(reason)
        taken = await self._pipeline.swap(probation.previous)
        self._probation = self._learned = None
        self.counts["rollbacks"] += 1
        self._back_off()
        version = probation.previous.version.id
        facts = {"taken_back": taken.version.id, "reason": reason, **probation.to_wire()}
        self._settle("rollback", version=version, wait_s=self._wait_s(), **facts)
        return version

    # ------------------------------------------------------------------ small things

    @contextlib.asynccontextmanager
    async def _transition(self) -> AsyncIterator[None]:
        """Room for what an operator asks. Raises BusyError where a training keeps him waiting."""
        try:
            await asyncio.wait_for(self._busy.acquire(), _PATIENCE_S)
        except asyncio.TimeoutError:
            raise BusyError(
                "an adaptation is under way",
                field="adapt",
                value=self.state,
                remedy="wait for its end, or end it with `edgetuner pause`",
            ) from None
        try:
            yield
        finally:
            self._busy.release()

    async def _serve(self, serving: Serving) -> None:
        await self._pipeline.swap(serving)
        self._probation = self._learned = None
        self._failures = self._judge.refusals = 0
        self._drifted.clear()

    async def _load(self, path: Path) -> ModelVersion:
        config = self._config()
        version = await asyncio.to_thread(
            lambda: ModelVersion.load(
                path,
                device=self._device,
                allow_factories=config.inference.allow_factories,
                drift=config.drift,
            )
        )
        _check_same_task(version, self._pipeline.version)
        return version

    def _drifted_names(self) -> list[str]:
        return ["/".join(key) for key in sorted(self._drifted)]

    def _window_ns(self) -> int:
        manifest = self._pipeline.version.manifest
        return round(1e9 * manifest.length / manifest.hz)

    def _back_off(self) -> None:
        wait = self._config().adapt.cooldown_s * 2**self._failures
        self._failures = min(self._failures + 1, 10)
        self._not_before = self._clock() + wait

    def _left_out(self) -> dict[str, int]:
        return {"disputed": self._belief.left_out} if self._belief.left_out else {}

    def _wait_s(self) -> float:
        return max(0.0, round(self._not_before - self._clock(), 1))

    def _defer(self, reason: str) -> None:
        if not self._drifted and self._requested is None:
            return  # nobody waits for it
        self.state = "drifted" if self._drifted else "requested"
        # One more label is news for the state, but no event: only another obstacle is.
        if _wording(reason) != _wording(self.deferred or ""):
            self._publish("event.deferred", {"reason": reason, **self._left_out()})
        self.deferred = reason
        self._tell()

    def _enter(self, state: str, event: str, **facts: Any) -> None:
        self.state = state
        self._publish(f"event.{event}", facts)
        self._tell()

    def _settle(self, event: str, **facts: Any) -> None:
        self._enter("drifted" if self._drifted else "watching", event, **facts)

    def _on_progress(self, said: dict[str, Any]) -> None:
        self._progress.take(said)
        self._tell()

    def _trouble(self, error: EdgetunerError) -> None:
        if str(error) != self._problem:
            self._problem = str(error)
            self._publish("event.trouble", {"error": error.to_wire()})

    def _tell(self) -> None:
        self._publish("status.adaptation", self.describe())


def _stopped(job: Job) -> AdaptationError:
    return AdaptationError(
        "stopped by an operator", field=job.ask.job, remedy="resume to adapt again"
    )


def _wording(reason: str) -> str:
    return "".join(character for character in reason if not character.isdigit())


def _check_same_task(version: ModelVersion, live: ModelVersion) -> None:
    for name in ("classes", "channels", "length", "hz"):
        found, wanted = getattr(version.manifest, name), getattr(live.manifest, name)
        if found != wanted:
            raise RegistryError(
                "another task than that of the live model",
                field=f"{version.id}: {name}",
                value=found,
                remedy=f"choose a version with {wanted}",
            )
