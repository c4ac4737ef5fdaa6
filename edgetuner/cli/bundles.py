"""`bundle create`, `show` and `verify`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetuner.cli.options import add_json, command, count, group
from edgetuner.cli.output import say, say_json
from edgetuner.cli.versions import version_page
from edgetuner.errors import BundleError, UsageError

if TYPE_CHECKING:
    from edgetuner.config import AdaptConfig
    from edgetuner.data import WindowSet
    from edgetuner.peft.plan import Course, Plan

BACKBONES = ("t_resnet", "mobilenet_v2", "small_cnn")
_CREATE = """\
Trains a backbone on labelled source windows, or takes a module of your own with its
weights:

  edgetuner bundle create source.npz -o bundle --select position=right_wrist
  edgetuner bundle create monday.csv tuesday.csv -o bundle \\
      --length 128 --hop 64 --hz 50 --channels acc_x,acc_y,acc_z --groups subject
  edgetuner bundle create source.npz -o bundle \\
      --factory mypackage.nets:make --weights weights.safetensors

The last part in time of every recording is not trained on: it gives the metrics and the
thresholds of the drift detectors."""

_SHOW = """\
With --plan, torch is needed: the model is built and what its training keeps in memory is
measured on a few windows."""


def add_commands(commands: Any) -> None:
    """Adds the commands of this file."""
    actions = group(commands, "bundle", "create, show or verify a model bundle")
    _add_create(actions)
    show = command(actions, "show", _show, "show what a bundle holds, without torch", _SHOW)
    verify = command(actions, "verify", _verify, "check every hash, shape and name of a bundle")
    for parser in (show, verify):
        parser.add_argument("bundle", type=Path, help="its folder")
        add_json(parser)
    _add_plan(show.add_argument_group("plan"))


def _add_plan(add: Any) -> None:
    add.add_argument(
        "--plan", action="store_true", help="what training its cores costs, layer by layer"
    )
    add.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="take the settings of this configuration"
    )
    add.add_argument("--rank", type=count, metavar="R", help="of the cores (default: 4)")
    add.add_argument(
        "--layers",
        type=_names,
        metavar="NAMES",
        help="convolutions to adapt, such as 'blocks.2.*' (default: all)",
    )
    add.add_argument(
        "--memory", type=count, metavar="MB", help="in place of adapt.memory_budget_mb"
    )
    add.add_argument(
        "--allow-factory",
        action="append",
        default=[],
        metavar="NAME",
        help="package.module:callable that the bundle may build its model with; it is run",
    )


def _add_create(actions: Any) -> None:
    create = command(actions, "create", _create, "make a bundle from labelled windows", _CREATE)
    create.add_argument(
        "source", type=Path, nargs="+", help="one window set (.npz), or recordings (.csv, .parquet)"
    )
    create.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FOLDER", help="folder to make"
    )
    create.add_argument(
        "--select",
        default="",
        metavar="SELECTORS",
        help="use these windows only, such as position=right_wrist,subject=1,2",
    )
    _add_model(create.add_argument_group("model"))
    _add_training(create.add_argument_group("training and evidence"))
    _add_rule(create.add_argument_group("windowing rule, for .csv and .parquet"))
    add_json(create)


def _add_model(add: Any) -> None:
    add.add_argument("--backbone", choices=BACKBONES, help=f"(default: {BACKBONES[0]})")
    add.add_argument("--factory", metavar="PACKAGE.MODULE:CALLABLE", help="your own nn.Module")
    add.add_argument(
        "--weights", type=Path, metavar="FILE", help="its trained state dict, .safetensors"
    )
    add.add_argument(
        "--head", default="head", metavar="NAME", help="its last nn.Linear (default: head)"
    )


def _add_training(add: Any) -> None:
    add.add_argument(
        "--epochs", type=count, metavar="N", help="passes over the windows (default: 12)"
    )
    add.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)"
    )
    add.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="of every recording, its last part in time (default: 0.2)",
    )
    add.add_argument(
        "--gap",
        type=int,
        metavar="WINDOWS",
        help="left out before that part, so that windows which overlap do not lie on both sides "
        "(default: 1; of recordings, as many as overlap)",
    )
    add.add_argument(
        "--unseen",
        type=_numbers,
        default=(),
        metavar="SUBJECTS",
        help="people left out and measured, such as 3,4",
    )
    add.add_argument(
        "--calibrate-with",
        type=_numbers,
        default=(),
        metavar="SUBJECTS",
        help="people not trained on whose windows are no drift, such as 5",
    )
    add.add_argument(
        "--false-alarm-every",
        type=float,
        metavar="WINDOWS",
        help="mean windows between false drift alarms that thresholds aim at (default: 5000)",
    )


def _add_rule(add: Any) -> None:
    add.add_argument("--length", type=count, metavar="N", help="samples a window")
    add.add_argument(
        "--hop",
        type=count,
        metavar="N",
        help="samples from one window's start to the next (default: the length)",
    )
    add.add_argument("--hz", type=float, metavar="HZ", help="sampling rate")
    add.add_argument(
        "--channels", type=_names, metavar="COLUMNS", help="in order, such as acc_x,acc_y,acc_z"
    )
    add.add_argument(
        "--label", default="label", metavar="COLUMN", help="of the class (default: label)"
    )
    add.add_argument(
        "--time", default="time", metavar="COLUMN", help="of the time in seconds (default: time)"
    )
    add.add_argument(
        "--groups", type=_names, default=(), metavar="COLUMNS", help="to keep, such as subject"
    )


def _create(options: argparse.Namespace) -> None:
    if bool(options.factory) != bool(options.weights) or (options.factory and options.backbone):
        raise UsageError(
            "--factory and --weights go together, and without --backbone",
            field="--factory",
            remedy="give both, or a backbone that is trained here",
        )
    if options.out.exists():  # said before the training, and not after it
        raise BundleError(
            "exists already", field="--out", value=str(options.out), remedy="name another folder"
        )
    windows, gap = _source(options)

    from edgetuner.pretrain import Evidence, Recipe, create_bundle, create_bundle_from_module

    evidence = Evidence(
        **_given(
            hold_out=options.hold_out,
            gap=gap if options.gap is None else options.gap,
            arl_windows=options.false_alarm_every,
            unseen_subjects=options.unseen,
            calibration_subjects=options.calibrate_with,
        )
    )
    if options.factory:
        bundle = create_bundle_from_module(
            options.factory,
            options.weights,
            windows,
            options.out,
            head=options.head,
            evidence=evidence,
        )
    else:
        bundle = create_bundle(
            windows,
            options.backbone or BACKBONES[0],
            options.out,
            recipe=Recipe(**_given(epochs=options.epochs, seed=options.seed)),
            evidence=evidence,
            on_epoch=_tell_epoch,
        )
    _describe(options, bundle.path)


def _tell_epoch(epoch: int, loss: float) -> None:
    if sys.stderr.isatty():
        print(f"epoch {epoch}: loss {loss:.3f}", file=sys.stderr)


def _show(options: argparse.Namespace) -> None:
    if not options.plan:
        _refuse_plan_options(options)
        _describe(options, options.bundle)
        return

    from edgetuner.cli.plan import plan_data, plan_page

    planned, course, settings = _plan(options)
    say_json(plan_data(planned, course, settings)) if options.json else say(
        plan_page(planned, course, settings)
    )


def _refuse_plan_options(options: argparse.Namespace) -> None:
    for name in ("config", "rank", "layers", "memory", "allow_factory"):
        if getattr(options, name):
            field = f"--{name.replace('_', '-')}"
            raise UsageError("belongs to a plan", field=field, remedy="add --plan")


def _plan(options: argparse.Namespace) -> tuple[Plan, Course, AdaptConfig]:
    """What training the bundle's model costs, how it would be done, and by which settings."""
    from edgetuner.adapt.rungs.cores import course_of, plan_of
    from edgetuner.bundle import Bundle
    from edgetuner.config import Config, load_config
    from edgetuner.factories import build_module

    config = load_config(options.config) if options.config else Config()
    settings = config.adapt.model_copy(
        update=_given(rank=options.rank, layers=options.layers, memory_budget_mb=options.memory)
    )
    bundle = Bundle.load(options.bundle)
    module = build_module(bundle, (*config.inference.allow_factories, *options.allow_factory))
    shape = len(bundle.manifest.channels), bundle.manifest.length
    planned = plan_of(module, shape, settings, bundle.manifest.backbone.head)
    return planned, course_of(planned, settings.max_windows, settings), settings


def _verify(options: argparse.Namespace) -> None:
    from edgetuner.bundle import verify

    manifest = verify(options.bundle)
    if options.json:
        say_json({"version": manifest.version, "verified": sorted(manifest.files)})
    else:
        say(f"{manifest.version}: {len(manifest.files)} files verified")


def _describe(options: argparse.Namespace, path: Path) -> None:
    from edgetuner.bundle import read_manifest

    manifest = read_manifest(path).model_dump(mode="json", exclude_none=True)
    if options.json:
        say_json(manifest)
    else:
        say(version_page(manifest))


def _source(options: argparse.Namespace) -> tuple[WindowSet, int | None]:
    """The windows, and how many of them overlap with the next one where that is known."""
    from edgetuner.data import load, parse_selectors

    gap = None
    if options.source[0].suffix != ".npz":
        windows, gap = _recordings(options)
    elif len(options.source) == 1:
        windows = load(options.source[0])
    else:
        raise UsageError(
            "only one .npz at a time",
            field="source",
            value=len(options.source),
            remedy="join them into one window set",
        )
    return windows.select(**parse_selectors(options.select)), gap


def _recordings(options: argparse.Namespace) -> tuple[WindowSet, int]:
    from edgetuner.recordings import WindowRule, load_recordings

    for name in ("length", "hz", "channels"):
        if getattr(options, name) is None:
            raise UsageError(
                "is needed for recordings", field=f"--{name}", remedy="see `--help` for the rule"
            )
    rule = WindowRule(
        length=options.length,
        hop=options.hop or options.length,
        hz=options.hz,
        label=options.label,
        time=options.time,
        channels=options.channels,
        groups=options.groups,
    )
    return load_recordings(options.source, rule), rule.gap


def _given(**values: Any) -> dict[str, Any]:
    """Those that were given: the rest keeps the default of the library."""
    return {name: value for name, value in values.items() if value is not None}


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _numbers(text: str) -> tuple[int, ...]:
    if not all(name.isdecimal() for name in _names(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers")
    return tuple(int(name) for name in _names(text))
