"""From drift to a swap, and back if it was wrong: one coroutine, told once.

    watching -> drifted -> admitted -> training -> gate -> swapped in, on probation -> promoted
                   |           |          |          |                    |
                deferred    (waits)    failed     refused            rolled back

Whatever fails leaves the champion untouched and says why, on the status socket and in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from edgetuner.adapt import job as jobs
from edgetuner.adapt.admission import Situation, hindrance, refusal
from edgetuner.adapt.answers import Answers
from edgetuner.adapt.belief import Belief
from edgetuner.adapt.cooldown import Cooldown
from edgetuner.adapt.division import divided
from edgetuner.adapt.drifts import Drifts
from edgetuner.adapt.faults import Faults
from edgetuner.adapt.gate import Verdict
from edgetuner.adapt.job import Ask, Job
from edgetuner.adapt.judge import Judge, apart
from edgetuner.adapt.lessons import Lessons
from edgetuner.adapt.news import News
from edgetuner.adapt.observations import Labels, Observations
from edgetuner.adapt.probation import Probation
from edgetuner.adapt.recall import Recall
from edgetuner.adapt.recurrence import at_home
from edgetuner.adapt.trainer import Train, Trainer, stopped
from edgetuner.adapt.turns import Turns
from edgetuner.adapt.versions import Versions
from edgetuner.config import Config
from edgetuner.drift.monitor import Finding
from edgetuner.errors import BusyError, EdgetunerError, RegistryError, unexpected
from edgetuner.inference import ModelVersion
from edgetuner.metrics import macro_f1
from edgetuner.pipeline import Pipeline
from edgetuner.registry import Aliases, Registry
from edgetuner.serving import Serving
from edgetuner.store import Context
from edgetuner.telemetry import Sample, Telemetry

StreamKey = tuple[str, str]
Publish = Callable[[str, dict[str, Any]], None]

# What a verdict means as long as labels keep coming.
_BESIDE = {
    True: "labels help both",
    False: "labels help who is served, and once they stop it is tried again without",
}
_TICK_S = 1.0  # cool-downs and free memory change without anybody saying so


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
        self._publish = publish
        self._news = News(_TICK_S)
        self._turns = Turns(lambda: self.state)
        self._faults = Faults()
        self._drifts = Drifts()
        self._answering: dict[StreamKey, int] = {}  # the alarms that are being answered
        self._observations = Observations(pipeline, self._faults)
        self._answers = Answers(pipeline)
        self._judge = Judge(config, self._answers)
        self._belief = Belief(config, self._answers)
        self._versions = Versions(config, pipeline, registry, device)
        self._recall = Recall(
            config, pipeline, self._drifts, self._observations, self._versions, self._judge
        )
        self._lessons = Lessons()
        self._cooldown = Cooldown(config, clock)
        self._trainer = Trainer(config().state_dir / "jobs", telemetry, self._tell, clock, train)
        self._probation: Probation | None = None
        self._requested: str | None = None
        self._request: str | None = None  # the one that is being answered
        # Labels, why they are too few, and the configuration that says so.
        self._short: tuple[int, str, Config] | None = None
        self._news_of_labels = False
        self._problem: str | None = None
        self.state = "watching"
        self.paused = False
        self.deferred: str | None = None
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
            if finding.kind in ("sensor_fault", "sensor_ok"):
                self._short = None
            if finding.kind == "drift" and not self._config().drift.enabled:
                continue
            if self._drifts.note(finding):
                self._news.tell()
                if not self._drifts and self.state == "drifted":  # it was the sensor, or is over
                    self.state, self.deferred = "watching", None  # nothing waits any more
                    self._tell()

    def on_predictions(self, count: int) -> None:
        """`count` more windows were predicted."""
        if self._probation is not None:
            self._probation.windows += count
            self._news.tell()

    def on_labels(self) -> None:
        """More windows have labels."""
        self._news_of_labels = True
        self._news.tell()

    def describe(self) -> dict[str, Any]:
        """The state, for the status socket."""
        about: dict[str, Any] = {"state": "paused" if self.paused else self.state, **self.counts}
        if self._drifts:
            about["drifted"] = self._drifts.names
        if self._requested is not None:
            about["requested"] = self._requested
        if self.deferred is not None and not self.paused:
            about["deferred"] = self.deferred
        if self._trainer.progress.now:
            about["progress"] = self._trainer.progress.now
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
        self._cooldown.waive()
        self._news.tell()
        self._tell()

    def pause(self) -> None:
        """Start no adaptation; end the training under way. The live model keeps predicting."""
        self.paused = True
        self._trainer.stop()
        self._tell()

    def resume(self) -> None:
        """Adapt again when it is called for."""
        self.paused = False
        self._news.tell()
        self._tell()

    async def promote(self, version: str, reason: str) -> str:
        """Makes a version the champion, now, and alone. Returns its id."""
        version = self._registry.path(version).name
        async with self._turns.of_operator():
            serving, alone = self._pipeline.serving, Aliases(version, None, None)
            told = replace(self._registry.aliases, previous=None)
            if (serving.version.id, serving.beside, told) == (version, (), alone):
                return version  # as it is, and its detectors keep what they have seen
            loaded = await self._versions.load(version)
            self._registry.promote(version, reason)
            await self._serve(Serving(loaded))
            self.counts["promotions"] += 1
            self._settle("promoted", version=version, reason=reason)
        return version

    async def rollback(self, reason: str) -> str:
        """Takes back the version on probation, or else the champion. Returns the version live
        now.
        """
        async with self._turns.of_operator():
            if self._probation is not None:
                return await self._roll_back(self._probation, reason)
            if self._registry.aliases.previous is None:
                raise RegistryError(
                    "there is no previous version to go back to",
                    field="previous",
                    remedy="name one: `edgetuner models promote VERSION`",
                )
            loaded = await self._versions.load("previous")
            version = self._registry.restore_previous(reason)
            await self._serve(Serving(loaded))
            self.counts["rollbacks"] += 1
            self._settle("rollback", version=version, reason=reason)
            return version

    # ------------------------------------------------------------------ what it does by itself

    async def run(self) -> None:
        """Considers the situation whenever it has changed, until cancelled."""
        while True:
            await self._news.wait()
            try:
                await self.consider()
            except EdgetunerError as error:  # a full disk: predictions go on, and it may pass
                self._trouble(error)
            except Exception as error:  # whatever it was: predictions go on
                self._trouble(unexpected(error))
            else:
                self._problem = None

    async def consider(self) -> None:
        """One look at the situation, and the step that it calls for."""
        async with self._turns.own():
            if self._probation is not None:
                await self._review(self._probation)
            elif not self.paused and (
                self._drifts or self._requested is not None or await self._outgrown()
            ):
                await self._adapt()

    async def _outgrown(self) -> bool:
        """Whether labels show more activities than the live version has learned, and there are new
        ones, or they have made a candidate needless and may have stopped.
        """
        news = self._news_of_labels or self._lessons.unfinished
        if not self._lessons.of_this_context or not news:
            return False
        self._news_of_labels = False
        labels = await self._observations.labels(await self._observations.starts())
        return self._lessons.outgrown(labels.classes)

    async def _adapt(self) -> None:
        self._request = requested = self._requested  # another one may come meanwhile
        why = requested or self._drifts.reasons or "more activities are labelled"
        starts = await self._observations.starts()
        # Whoever asks for a version does not mean to go on labelling.
        with_labels = requested is None and await self._labels_answer(starts)
        labels = await self._observations.labels(starts)
        situation = self._situation(labels)
        reason = hindrance(situation)
        if reason is None and await self._recalled(starts):
            return
        reason = reason or refusal(situation, self._config())
        if requested is None:
            reason = reason or self._recall.waits(with_labels=with_labels)
            reason = reason or self._lessons.repeated(labels.windows, with_labels=with_labels)
        reason = reason or self._belief.standing(
            labels.windows, self._pipeline.version, with_labels=with_labels
        )
        reason = reason or self._shortage(labels.windows)
        context = reason or await self._admitted(starts, labels.windows, with_labels=with_labels)
        if isinstance(context, str):
            self._defer(context)
        elif requested is not None or not await self._known(context):
            await self._attempt(context, why, labels.windows, with_labels=with_labels)

    async def _labels_answer(self, starts: Mapping[StreamKey, int]) -> bool:
        """Whether labels answer wherever something drifted, or anywhere if nothing did."""
        labelled = await self._pipeline.labelled(starts)
        drifted = self._drifts.alarms.keys()
        return drifted <= labelled if drifted else bool(labelled)

    def _shortage(self, labels: int) -> str | None:
        """Why so many labels were too few when their windows were read last: reading them again
        would not change it.
        """
        then, reason, config = self._short or (0, "", None)
        return reason if then == labels and config is self._config() else None

    async def _admitted(
        self, starts: Mapping[StreamKey, int], labels: int, *, with_labels: bool
    ) -> Context | str:
        """The present context with the labels that are believed, of so many; or why nothing may be
        trained on it.
        """
        most = self._config().adapt.max_windows
        context = self._drifts.present(await self._observations.windows(starts, most))
        found = Labels.of(context)
        reason = refusal(self._situation(found), self._config())
        if reason is not None and found.windows < labels:
            reason += f"; {labels - found.windows} more are of before, gone, or near a sensor fault"
            self._short = labels, reason, self._config()
        believed = reason or await self._belief.weigh(
            context, self._pipeline.version, with_labels=with_labels
        )
        if isinstance(believed, str):
            return believed
        reason = refusal(self._situation(Labels.of(believed)), self._config())
        return believed if reason is None else self._belief.explain(reason)

    def _situation(self, labels: Labels) -> Situation:
        return Situation(
            labels=labels.windows,
            classes=labels.classes,
            known=len(self._pipeline.version.classes),
            faults=[name for name in self._faults.standing() if name in self._drifts.names],
            board=self.board,
            spent_j=self._trainer.energy.used_j,
            wait_s=self._cooldown.wait_s,
        )

    async def _recalled(self, starts: Mapping[StreamKey, int]) -> bool:
        """Whether an earlier version that knows this context was swapped in."""
        recalled = await self._recall.ask(starts)
        if recalled is None:
            return False
        self._publish("event.recall", {"asked": recalled.asked})
        if recalled.best is None:
            return False
        candidate, verdict = recalled.best
        self._answered()
        self.counts["reuses"] += 1
        self.last = {"reused": True, "gate": verdict.to_wire()}
        await self._swap(candidate, verdict)
        return True

    async def _known(self, context: Context) -> bool:
        """Whether those who answer do as well in this context as at home, so that nothing has to be
        learned: what the detectors of the live version find strange, the one beside it may know.
        """
        # Only what they said before anybody could learn from it: on windows that a version was
        # trained on it is always right.
        labelled = context.take((context.y >= 0) & self._answers.fresh(context))
        if len(labelled) < self._config().gate.min_windows:
            return False
        f1 = macro_f1(labelled.y, labelled.predicted)
        if not self._at_home(f1):
            return False
        self._answering = self._drifts.alarms
        await self._acknowledge(f1, labelled)
        if self._answering.items() & self._drifts.alarms.items():
            return False  # of streams that hardly a label is of
        self._answered()
        self._lessons.know(Labels.of(labelled).classes)
        self.state = self._at_rest()
        self._tell()
        return True

    def _at_home(self, f1: float | None) -> bool:
        """Whether that is as good as the live version was where it comes from, if it says so."""
        manifest = self._pipeline.version.manifest
        return "held_out_macro_f1" in manifest.metrics and at_home(f1, manifest)

    async def _acknowledge(self, f1: float | None, labelled: Context) -> None:
        """Nothing had drifted, as far as labels tell: of streams of which they say enough."""
        least = self._config().gate.min_windows
        alarms = self._drifts.alarms
        answered = [
            key
            for index, key in enumerate(labelled.keys)
            if (labelled.stream == index).sum() >= least
            and key in alarms
            and self._answering.get(key) == alarms[key]  # and not found meanwhile
        ]
        for key in answered:
            await self._pipeline.watched(lambda monitor, key=key: monitor.acknowledge(key))  # type: ignore[misc]
            self._drifts.answer(key)
        if not answered:
            return
        home = self._pipeline.version.manifest.metrics.get("held_out_macro_f1")
        self._publish("event.false_alarm", {"champion_f1": f1, "home_f1": home})

    def _answered(self) -> None:
        """What was asked for is being done."""
        self._answering, self._short = self._drifts.alarms, None
        self.deferred = None
        if self._requested is self._request:
            self._requested = None
            self._belief.reset()

    async def _attempt(self, context: Context, why: str, labels: int, *, with_labels: bool) -> None:
        """One adaptation, from the job to the swap, if it comes to one."""
        self._answered()
        self.counts["adaptations"] += 1
        try:
            since = await self._pipeline.stored(lambda store: store.next_seqs())
            job = await self._prepare(context, why, with_labels=with_labels)
            self._stop_if_paused(job)
            result = await self._trainer.train(job, self._config().inference.allow_factories)
            candidate, verdict = await self._judged(
                job, result, context, since, with_labels=with_labels
            )
            if with_labels:
                verdict = replace(verdict, reason=f"{verdict.reason}; {_BESIDE[verdict.passed]}")
            self._stop_if_paused(job)
            self.last = {"job": job.ask.job, "rung": result["rung"], "gate": verdict.to_wire()}
            self.last["rungs"] = self._trainer.progress.rungs
            self.last |= {
                name: result[name]
                for name in ("train_seconds", "trained_fraction", "core_norm", "peak_held_bytes")
                if name in result
            }
            if verdict.passed and candidate is not None:
                await self._swap(candidate, verdict, Labels.of(context).classes)
            else:
                self._lessons.refuse(labels, with_labels=with_labels)
                await self._refuse(job, verdict, context)
        except EdgetunerError as error:
            self._failed(error)
        except Exception as error:  # the champion is untouched by that, too
            self._failed(unexpected(error))

    def _failed(self, error: EdgetunerError) -> None:
        self.counts["failed"] += 1
        self._cooldown.back_off()
        self._settle("adaptation_failed", error=error.to_wire())

    async def _prepare(self, context: Context, why: str, *, with_labels: bool) -> Job:
        config, live = self._config(), self._pipeline.version
        facts = self._left_out()
        windows, guesses = await divided(
            context, config.adapt, live, self._answers, with_labels=with_labels
        )
        if guesses is not None:
            facts["guessed"] = guesses
        self._enter("training", "adaptation_started", why=why, **facts)
        ask = Ask(
            job=jobs.new_id(self.counts["adaptations"]),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            why=why,
            settings=config.adapt,
            gate=self._judge.settings,
            false_alarm_windows=config.drift.run_length(live.manifest.window_ns / 1e9),
        )
        return await self._trainer.keep(ask, self._registry.path(live.id), windows)

    def _stop_if_paused(self, job: Job) -> None:
        if self.paused:
            raise stopped(job)

    async def _judged(
        self,
        job: Job,
        result: dict[str, Any],
        context: Context,
        since: dict[StreamKey, int],
        *,
        with_labels: bool,
    ) -> tuple[ModelVersion | None, Verdict]:
        """The candidate and the gate's verdict; none where training saw no hope of passing it."""
        if "version" not in result:
            return None, Verdict(**result["verdict"])
        candidate = await self._recheck(job)
        windows = await self._judging(job, context, since, candidate.manifest.window_ns)
        return candidate, await self._judge.verdict(
            candidate, windows, job.ask.gate, with_labels=with_labels
        )

    async def _recheck(self, job: Job) -> ModelVersion:
        """Takes the candidate into the registry and loads it from there, hashes and all, off the
        hot path.
        """
        self._enter("gate", "gate")
        await asyncio.to_thread(self._registry.add, job.path / jobs.CANDIDATE)
        result = job.result() or {}
        return await self._versions.load(str(result["version"]))

    async def _judging(
        self, job: Job, context: Context, since: dict[StreamKey, int], window_ns: int
    ) -> Context:
        """The labelled windows held out from training, and those labelled since it began."""
        later = await self._observations.labelled(since)
        later = later.take(apart(later, context, window_ns))
        return (await self._held_out(job, context)).followed_by(later)

    async def _held_out(self, job: Job, context: Context) -> Context:
        split = (await asyncio.to_thread(job.windows)).split
        return context.take((split == jobs.HOLDOUT) & (context.y >= 0))

    async def _swap(
        self, candidate: ModelVersion, verdict: Verdict, learned: int | None = None
    ) -> None:
        starts = await self._pipeline.stored(lambda store: store.next_seqs())
        self._registry.begin_probation(candidate.id, verdict.reason)
        shared = self._config().adapt.beside
        previous = await self._pipeline.swap(self._judge.proposed(candidate))
        self._answers.since = {}
        self._probation = Probation(previous, starts, shared=shared)
        self._lessons.begin(learned)
        self._drifts.answer_all()
        self.counts["swaps"] += 1
        facts = {"version": candidate.id, "previous": previous.version.id, **self.last}
        self._enter("probation", "swap", **facts)

    async def _refuse(self, job: Job, verdict: Verdict, context: Context) -> None:
        """The champion stays; and if it does as well as at home by itself, nothing had drifted.

        Otherwise the drift goes on waiting for an answer: more labels may make a better candidate.
        """
        self.counts["refused"] += 1
        self._cooldown.begin()
        held = await self._held_out(job, context)
        if len(held) >= self._config().gate.min_windows:
            f1 = macro_f1(held.y, await self._answers.on_record(held))
            if self._at_home(f1):
                await self._acknowledge(f1, context.take(context.y >= 0))
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
            beside = serving.beside[0].id if serving.beside else None
            self._registry.promote(version, reason, beside=beside)
            await self._pipeline.proven()
            self._answers.since = await self._pipeline.stored(lambda store: store.next_seqs())
            self._probation = None
            self._cooldown.forgive()
            await asyncio.to_thread(self._registry.prune)
            self.counts["promotions"] += 1
            self._cooldown.begin()
            self._settle("promoted", version=version, reason=reason, **probation.to_wire())

    async def _compare(self, probation: Probation) -> None:
        """Lets the previous version predict what has been labelled since the last look."""
        labelled = await self._observations.labelled(probation.starts)
        windows = probation.unseen(labelled, self._pipeline.version.id)
        if len(windows):
            # those who will be left: what the version before helps with now says nothing for them
            kept = await self._answers.would_serve(self._answers.serving.proven(), windows)
            before = await self._answers.would_serve(probation.previous, windows)
            probation.compare(windows, kept, before)

    async def _roll_back(self, probation: Probation, reason: str) -> str:
        self._registry.end_probation(reason)
        taken = await self._pipeline.swap(probation.previous)
        self._answers.since = {}
        self._drifts.answer_all()  # the monitor begins anew as well
        self._probation = None
        self._lessons.forget()
        self.counts["rollbacks"] += 1
        self._cooldown.back_off()
        version = probation.previous.version.id
        wait_s = max(0.0, round(self._cooldown.wait_s, 1))
        facts = {"taken_back": taken.version.id, "reason": reason, **probation.to_wire()}
        self._settle("rollback", version=version, wait_s=wait_s, **facts)
        return version

    # ------------------------------------------------------------------ small things

    async def _serve(self, serving: Serving) -> None:
        await self._pipeline.swap(serving)
        self._answers.since = {}
        self._probation = None
        self._lessons.forget()
        self._cooldown.forgive()
        self._drifts.answer_all()

    def _left_out(self) -> dict[str, int]:
        return {"disputed": self._belief.left_out} if self._belief.left_out else {}

    def _defer(self, reason: str) -> None:
        if not self._drifts and self._requested is None:
            return  # nobody waits for it
        self.state = "drifted" if self._drifts else "requested"
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
        self._enter(self._at_rest(), event, **facts)

    def _at_rest(self) -> str:
        return "drifted" if self._drifts else "watching"

    def _trouble(self, error: EdgetunerError) -> None:
        if str(error) != self._problem:
            self._problem = str(error)
            self._publish("event.trouble", {"error": error.to_wire()})

    def _tell(self) -> None:
        self._publish("status.adaptation", self.describe())


def _wording(reason: str) -> str:
    return "".join(character for character in reason if not character.isdigit())
