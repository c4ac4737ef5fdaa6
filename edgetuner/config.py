"""The configuration: frozen, every field with its unit and its reason, unknown keys refused.

A file holds a subset of these fields; what it leaves out has the default given here.
`configs/default.yaml` lists them all, and a test holds the two together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from edgetuner.addresses import (
    ADDRESSES,
    REMEDY,
    SOCKETS,
    anchored_address,
    is_local,
    is_usable,
    read_yaml,
)
from edgetuner.errors import ConfigError

Rung = Literal["head", "unlabelled", "statistics", "cores"]
Source = Literal["jtop", "sysfs", "host", "simulated"]

# Of what a bundle may name too. Nothing of this form can be taken for an option.
FACTORY_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)$")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: Any) -> Any:
    """Takes `90`, `90s`, `15min`, `6h` or `7d`."""
    if not isinstance(value, str):
        return value
    match = _DURATION.match(value.strip())
    if match is not None:
        return float(match[1]) * _SECONDS[match[2]]
    try:
        return float(value)
    except ValueError:
        raise ValueError("is no duration: write 90, 90s, 15min, 6h or 7d") from None


_S = TypeVar("_S", bound="_Section")
Seconds = Annotated[float, BeforeValidator(_seconds)]
FactoryName = Annotated[str, Field(pattern=FACTORY_PATTERN)]


class _Section(BaseModel):
    # A validator is built when its section is first used; together they take as long as pydantic.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class SocketsConfig(_Section):
    """Addresses that the service binds: `ipc://PATH`, or `tcp://HOST:PORT`."""

    ingest: str = Field(
        default=ADDRESSES["ingest"],
        description="acknowledged windows and labels (ROUTER)",
    )
    plain: str | None = Field(
        default=None, description="windows of clients that only publish (SUB); null: not bound"
    )
    status: str = Field(
        default=ADDRESSES["status"], description="status, events and predictions (XPUB)"
    )
    control: str = Field(default=ADDRESSES["control"], description="operators' requests (ROUTER)")

    @field_validator(*SOCKETS)
    @classmethod
    def _usable(cls, address: str | None) -> str | None:
        if address is not None and not is_usable(address):
            raise ValueError(f"not a usable address: {REMEDY}")
        return address

    @model_validator(mode="after")
    def _apart(self) -> SocketsConfig:
        taken: dict[str, str] = {}
        for name, address in self.model_dump(exclude_none=True).items():
            other = taken.setdefault(address, name)
            if other != name and not address.endswith((":*", ":0")):
                raise ValueError(f"{other} and {name} are both {address}: give each its own")
        return self


class SecurityConfig(_Section):
    """CURVE keys. Without them the service binds local addresses only; with them every TCP socket
    asks.
    """

    server_key_file: Path | None = Field(
        default=None, description="the service's .key_secret certificate, mode 0600"
    )
    sensors_dir: Path | None = Field(
        default=None,
        description="folder of NAME.key: who may publish, each under its NAME as client_id",
    )
    operators_dir: Path | None = Field(
        default=None, description="folder of NAME.key: who may read the status and send requests"
    )

    @model_validator(mode="after")
    def _folders_with_key(self) -> SecurityConfig:
        if self.server_key_file and not (self.sensors_dir and self.operators_dir):
            raise ValueError("server_key_file needs sensors_dir and operators_dir beside it")
        return self


class IngestConfig(_Section):
    """What is accepted, and how much at a time."""

    credit: int = Field(
        default=64, ge=1, le=4096, description="messages a client may have under way unanswered"
    )
    batch: int = Field(
        default=256, ge=1, le=4096, description="messages committed together at most"
    )
    max_streams: int = Field(
        default=64, ge=1, le=4096, description="streams kept; a further one is refused"
    )
    max_windows_per_s: float = Field(
        default=2000.0,
        gt=0,
        description="of one stream, over ten seconds; faster is refused as absurd",
    )
    max_backlog: int = Field(
        default=8192,
        ge=1,
        description="windows waiting for a prediction before clients are slowed down",
    )


class StoreConfig(_Section):
    """The durable windows, labels and predictions."""

    durability: Literal["all", "sampled", "memory"] = Field(
        default="all",
        description="all: on disk before the ack; sampled: labels and each sample_every-th window; "
        "memory: nothing is written. Every ack says whether it is durable",
    )
    sample_every: int = Field(default=10, ge=1, description="of durability: sampled")
    max_mb: int = Field(
        default=512, ge=8, description="megabytes kept; the oldest windows go first"
    )


class InferenceConfig(_Section):
    """The live model."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: cuda where a convolution really runs on it, else cpu"
    )
    max_batch: int = Field(
        default=64, ge=1, description="windows predicted together, over all streams"
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of one prediction")
    allow_factories: tuple[FactoryName, ...] = Field(
        default=(), description="package.module:callable names a bundle may build its model with"
    )
    label_cache: bool = Field(
        default=True,
        description="labels answer at once for the windows like theirs that follow; false: only "
        "models answer",
    )


class DriftConfig(_Section):
    """When a stream counts as drifted."""

    enabled: bool = Field(
        default=True, description="false: watch and report, but never start an adaptation"
    )
    sensor_faults: bool = Field(
        default=True,
        description="flat line, clipping, range, rate, gain, offset, swapped axes (of one among "
        "several sensors): reported, never trained on",
    )
    false_alarm_every: Seconds | None = Field(
        default=None,
        gt=0,
        description="of one stream, all detectors together, such as 7d, on average over alarms "
        "that are answered, of which the first come sooner; null: as the bundle was made. Shorter "
        "finds drift sooner: a false alarm costs a look at the gate",
    )
    window_every: Seconds | None = Field(
        default=None,
        gt=0,
        description="how often a stream sends a window, for false_alarm_every; null: windows do "
        "not overlap",
    )

    def run_length(self, window_s: float) -> float | None:
        """Windows between false alarms that are asked for; None for what a version came with.

        Args:
            window_s: seconds that a window lasts.
        """
        if self.false_alarm_every is None:
            return None
        return self.false_alarm_every / (self.window_every or window_s)


class AdaptConfig(_Section):
    """When an adaptation is admitted, and how it trains."""

    policy: Literal["follow", "retain"] = Field(
        default="follow",
        description="follow: serve the present context, and keep the version before for its "
        "return; retain: serve the source as well, whose exemplars are trained on again",
    )
    rungs: tuple[Rung, ...] = Field(
        default=("head", "unlabelled", "statistics", "cores"),
        min_length=1,
        description="what is tried, each rung started from the last one that was taken",
    )
    choose: Literal["best", "last"] = Field(
        default="best",
        description="which rung becomes the candidate: the last one that windows unseen speak for, "
        "or the last",
    )
    enough: float = Field(
        default=0.98,
        gt=0,
        le=1,
        description="share of windows that a rung has to get right, as far as unseen labelled ones "
        "prove it (95 % confidence, each taken for independent), with the gate satisfied, for no "
        "further rung to be climbed",
    )
    trained_fraction: float = Field(
        default=0.0149,
        gt=0,
        le=1,
        description="share of the weights that may be trained: what the head leaves of them is for "
        "the cores. The head of a tiny net may take more, and then leaves none",
    )
    min_labels: int = Field(
        default=40, ge=2, description="labelled windows of the present context needed"
    )
    min_classes: int = Field(default=2, ge=2, description="classes among them")
    min_class_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="share of the model's classes among them: people do one thing for minutes, and "
        "what is trained on a few things forgets how the others look, which no gate on these few "
        "can see",
    )
    self_train: bool = Field(
        default=False,
        description="where there are fewer labels than min_labels, train on windows of whose class "
        "the model is sure, with the batch-norm statistics of the context and without; the labels "
        "judge the result, so gate.min_windows of them are needed",
    )
    doubt_labels: bool = Field(
        default=True,
        description="do not train on labels that agree with the model no better than chance, or "
        "contradict it where windows look as they did at home, unless an operator asks for it by "
        "edgetuner adapt --trust-labels",
    )
    beside: bool = Field(
        default=True,
        description="let the version that all adaptations began with answer beside the live one, "
        "each as far as labels and the window itself speak for it: it knows the activities that "
        "the live one has not seen yet. On probation the version before does, too. Predictions "
        "take two or three times as long",
    )
    reuse: int = Field(
        default=3,
        ge=0,
        description="earlier versions that proved themselves, the latest ones, which are asked "
        "after a drift before anything is trained; 0: always train",
    )
    max_windows: int = Field(
        default=4000, ge=16, description="newest windows of the context that are used"
    )
    holdout: float = Field(
        default=0.3,
        gt=0,
        lt=0.9,
        description="share of the labelled windows kept for the gate, last in time",
    )
    rank: int = Field(
        default=4,
        ge=1,
        le=64,
        description="of the cores G, at most; less where trained_fraction allows no more",
    )
    decomposition: Literal["tt", "full_suffix"] = Field(
        default="tt",
        description="tt: the LoRA-Edge paper's; full_suffix: truncated SVD of the whole kernel",
    )
    layers: tuple[str, ...] = Field(
        default=(),
        description="convolutions to adapt, by name, where * stands for anything, as in "
        "blocks.2.*; all of them if empty. The fewer and later, the faster",
    )
    batch_norm_beta: bool = Field(
        default=True,
        description="also train the shifts of the batch norms among these layers, the last ones, "
        "as far as trained_fraction allows",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="optimiser steps of the cores; null: 30, and 3 more a convolution that they "
        "adapt, 60 at most",
    )
    batch_size: int = Field(default=64, ge=1, description="windows a step")
    learning_rate: float = Field(
        default=1.5,
        gt=0,
        description="peak, of Adam: by how much of themselves the kernels may change in a step, "
        "all of them together; one alone never by more than .15",
    )
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="share of each label that goes to all classes alike"
    )
    seed: int = Field(default=0, ge=0, description="of every random draw in an adaptation")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="auto: cuda where a convolution really runs on it, else cpu, and cpu again if "
        "cuda fails",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="feature maps while the cores are trained; what is trained stays float32. "
        "bfloat16 is for cuda: where device is auto and there is none, it is float32 after all",
    )
    compact: bool = Field(
        default=False,
        description="keep less for the backward pass, where memory is short: a fifth less with "
        "ReLU, and a byte an element instead of four with GELU and the like, whose derivatives are "
        "then rounded to 255 steps",
    )
    cuda_graph: bool = Field(
        default=False,
        description="on cuda, launch a step as one graph instead of kernel by kernel; without "
        "effect elsewhere, or where a layer has no lean form",
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of the training process")
    nice: int = Field(
        default=10, ge=0, le=19, description="its scheduling priority: 19 is the most patient"
    )
    deadline_s: Seconds = Field(
        default=600.0, gt=0, description="it is killed after so many seconds"
    )
    memory_budget_mb: int = Field(
        default=1800,
        ge=64,
        description="megabytes (of 2^20 bytes) that the training process may hold beside the "
        "libraries it shares, of which Python and torch take some 150, with CUDA some 1300: steps "
        "are taken in parts that fit, or the cores are not trained at all; beyond, it is killed. "
        "edgetuner bundle show BUNDLE --plan tells",
    )
    min_available_mb: int = Field(
        default=300,
        ge=0,
        description="megabytes of free memory that must be left beside the budget",
    )
    max_temperature_c: float = Field(
        default=85.0, description="hottest zone at which training may start, degrees Celsius"
    )
    energy_budget_j_per_day: float | None = Field(
        default=None, gt=0, description="joules that training may use in 24 hours; null: no limit"
    )
    cooldown_s: Seconds = Field(
        default=30.0,
        ge=0,
        description="seconds after an adaptation before the next; doubles after each that failed "
        "or was taken back",
    )
    keep_jobs: int = Field(default=5, ge=1, description="job directories kept for replay at a desk")


class GateConfig(_Section):
    """What a candidate has to prove on windows that it was not trained on."""

    min_windows: int = Field(default=10, ge=4, description="held-out labelled windows needed")
    min_gain: float = Field(
        default=0.02,
        ge=0,
        description="macro-F1 that it must be better by, and accuracy that it must be shown to be "
        "better by: of twenty windows six that it alone gets right, of a hundred eight",
    )
    max_p_value: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="chance that a candidate which is no better than the champion passes, however "
        "many labels it is given; 1 / it is the evidence asked for it: five windows that it alone "
        "gets right, or eight against one, before min_gain has its say",
    )
    max_class_loss: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="recall that no class may be shown, by the same test, to have lost more of",
    )
    max_source_loss: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="macro-F1 that it may lose on source windows kept aside, under adapt.policy: "
        "retain",
    )


class ProbationConfig(_Section):
    """After a swap the previous version predicts the labelled windows too, and may come back."""

    labels: int = Field(
        default=30,
        ge=1,
        description="labelled windows after which it is over: the new version stays unless it was "
        "right less often",
    )
    windows: int = Field(
        default=5000, ge=1, description="windows after which it is over in any case"
    )
    max_p_value: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="chance that a version which is no worse is taken back before that, however "
        "often it is looked at; 1 / it is the evidence asked for the previous one",
    )


class RegistryConfig(_Section):
    """Model versions on disk."""

    keep: int = Field(
        default=5,
        ge=2,
        description="versions kept besides the aliased ones and the last two that were installed",
    )


class TelemetryConfig(_Section):
    """Power, memory, temperature."""

    sources: tuple[Source, ...] = Field(
        default=("jtop", "sysfs", "host"),
        description="tried in this order; the first available one is read",
    )
    interval_s: Seconds = Field(default=2.0, gt=0, description="seconds between readings")


class StatusConfig(_Section):
    """The status socket."""

    heartbeat_s: Seconds = Field(
        default=1.0, gt=0, description="seconds between status.state messages"
    )
    predictions: bool = Field(
        default=True, description="publish each prediction on its topic as well"
    )


class LogConfig(_Section):
    """Lines on standard output."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least shown"
    )
    format: Literal["json", "text"] = Field(
        default="json", description="one JSON object, or one text, a line"
    )


class Config(_Section):
    """The whole configuration."""

    state_dir: Path = Field(
        default=Path("/var/lib/edgetuner"), description="windows, model versions and jobs live here"
    )
    bundle: Path | None = Field(
        default=None,
        description="the first champion, needed until the state directory holds a version; another "
        "one here takes the champion's place at the next start, and a rollback takes it back",
    )
    sockets: SocketsConfig = Field(default_factory=SocketsConfig)
    security: SecurityConfig = Field(default_factory=SecurityConfig)
    ingest: IngestConfig = Field(default_factory=IngestConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    inference: InferenceConfig = Field(default_factory=InferenceConfig)
    drift: DriftConfig = Field(default_factory=DriftConfig)
    adapt: AdaptConfig = Field(default_factory=AdaptConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    probation: ProbationConfig = Field(default_factory=ProbationConfig)
    registry: RegistryConfig = Field(default_factory=RegistryConfig)
    telemetry: TelemetryConfig = Field(default_factory=TelemetryConfig)
    status: StatusConfig = Field(default_factory=StatusConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    @model_validator(mode="after")
    def _guarded(self) -> Config:
        for name, address in self.sockets.model_dump(exclude_none=True).items():
            if not is_local(address) and self.security.server_key_file is None:
                raise ValueError(
                    f"sockets.{name} is {address}, which other machines may reach: configure "
                    "security.server_key_file, or write ipc://PATH or tcp://127.0.0.1:PORT"
                )
        return self


# What a running service cannot take over: it holds them open, or built itself on them.
FIXED = (
    *("state_dir", "bundle", "sockets", "security", "store", "inference", "telemetry", "registry"),
    *("ingest.max_streams", "ingest.max_backlog", "drift.sensor_faults"),
)

_SEE = "configs/default.yaml"


def sections() -> dict[str, type[BaseModel]]:
    """The model of every section, by its key."""
    return {
        name: field.annotation
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section)
    }


def load_config(path: Path) -> Config:
    """Reads and checks a YAML file; relative paths in it are taken from its folder.

    Raises:
        ConfigError: unreadable, not YAML, or a field that is unknown or wrong.
    """
    return parse_config(read_yaml(path), base=path.resolve().parent)


def parse_config(raw: Mapping[str, Any], *, base: Path | None = None) -> Config:
    """Checks a mapping; relative paths are taken from `base`. Raises ConfigError."""
    # A section of which every line is commented out reads as null.
    empty = {name for name in sections() if raw.get(name, {}) is None}
    present = {name: value for name, value in raw.items() if name not in empty}
    config = _checked(Config, present)
    if base is None:
        return config
    config = _anchored(config, base)
    _checked(SocketsConfig, config.sockets.model_dump(), "sockets")  # two may be one by now
    return config


def fixed_changes(old: Config, new: Config) -> list[str]:
    """Dotted names of what differs but takes a restart to change."""
    return [name for name in FIXED if _at(old, name) != _at(new, name)]


def _at(config: Config, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _checked(section: type[_S], raw: Any, name: str = "") -> _S:
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise _translated(error, name) from None


def _anchored(section: _S, base: Path) -> _S:
    """The same with every path absolute, those in ipc addresses included."""

    def anchor(value: Any, name: str) -> Any:
        if isinstance(value, Path):
            return base / _expanded(value, name)
        if isinstance(value, str):
            return anchored_address(value, base)
        if isinstance(value, _Section):
            return _anchored(value, base)
        return value

    fields = {name: anchor(getattr(section, name), name) for name in type(section).model_fields}
    return section.model_copy(update=fields)


def _expanded(path: Path, name: str) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(
            "nobody's home folder", field=name, value=str(path), remedy="write the path in full"
        ) from None


def _translated(error: ValidationError, section: str) -> ConfigError:
    first, *others = error.errors(include_url=False)
    rest = ", ".join(".".join(map(str, (section, *one["loc"]))).strip(".") for one in others)
    also = f"; correct as well: {rest}" if others else ""
    field = ".".join(str(part) for part in (section, *first["loc"]) if part != "") or "config"
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, _names(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return ConfigError(
            "unknown key", field=field, remedy=f"{hint}{_SEE} has all there are{also}"
        )
    problem = first["msg"].removeprefix("Value error, ")
    about_whole = isinstance(first["input"], dict)  # the message names the keys by itself
    return ConfigError(
        problem[0].lower() + problem[1:],
        field=field,
        value=None if about_whole else first["input"],
        remedy=f"{_SEE} tells its meaning and unit{also}",
    )


def _names() -> Iterator[str]:
    yield from Config.model_fields
    for name, section in sections().items():
        yield from (f"{name}.{key}" for key in section.model_fields)
