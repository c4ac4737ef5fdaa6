"""`bundle create`, `show` and `verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetuner.cli.options import add_json, command
from edgetuner.cli.output import show_json, tree
from edgetuner.errors import UsageError

if TYPE_CHECKING:
    from edgetuner.data import WindowSet

_CREATE = """\
Trains a backbone on labelled source windows, or takes a module of your own with its weights:

  edgetuner bundle create source.npz -o bundle/ --backbone t_resnet --select position=right_wrist
  edgetuner bundle create rec1.csv rec2.csv -o bundle/ --length 128 --hop 64 --hz 50 --label
  activity edgetuner bundle create source.npz -o bundle/ --factory mypkg.nets:make --weights
  w.safetensors

The last part in time of every recording is not trained on: it gives the metrics, the calibration of
the confidence, and the thresholds of the drift detectors."""


def add_commands(commands: Any) -> None:
    """Adds the commands of this file."""
    bundle = commands.add_parser("bundle", help="create, show or verify a model bundle")
    actions = bundle.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_create(actions)
    show = command(actions, "show", _show, "show what a bundle holds, without torch")
    verify = command(actions, "verify", _verify, "check every hash, shape and name of a bundle")
    for parser in (show, verify):
        parser.add_argument("bundle", type=Path, help="its folder")
        add_json(parser)


def _add_create(actions: Any) -> None:
    create = command(actions, "create", _create, "make a bundle from labelled windows", _CREATE)
    create.add_argument("source", type=Path, nargs="+", help="one .npz, or .csv / .parquet files")
    create.add_argument("-o", "--out", type=Path, required=True, help="folder that is made")
    create.add_argument("--select", default="", metavar="SELECTORS", help="such as position=1")
    model = create.add_argument_group("model")
    model.add_argument("--backbone", help="t_resnet, mobilenet_v2 or small_cnn (default: t_resnet)")
    model.add_argument("--factory", metavar="PACKAGE.MODULE:CALLABLE", help="your own nn.Module")
    model.add_argument("--weights", type=Path, help="its state dict, .safetensors")
    model.add_argument("--head", default="head", help="name of its last nn.Linear (default: head)")
    training = create.add_argument_group("training")
    training.add_argument("--epochs", type=int, help="passes over the windows")
    training.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    training.add_argument(
        "--hold-out", type=float, help="share of every recording, the last in time"
    )
    training.add_argument(
        "--unseen", default="", metavar="1,2", help="people left out and measured"
    )
    training.add_argument(
        "--false-alarm-every", type=float, metavar="WINDOWS", help="drift thresholds aim at this"
    )
    rule = create.add_argument_group("windowing rule, for .csv and .parquet")
    rule.add_argument("--length", type=int, help="samples a window")
    rule.add_argument("--hop", type=int, help="samples from one window's start to the next")
    rule.add_argument("--hz", type=float, help="sampling rate")
    rule.add_argument("--label", help="column of the class (default: label)")
    rule.add_argument("--time", help="column of the time in seconds")
    rule.add_argument("--channels", help="columns of the channels, comma-separated")
    rule.add_argument("--groups", default="", help="columns such as subject, comma-separated")
    add_json(create)


def _create(options: argparse.Namespace) -> None:
    from edgetuner.pretrain import Evidence, Recipe, create_bundle, create_bundle_from_module

    windows = _source(options)
    evidence = _given(
        hold_out=options.hold_out,
        arl_windows=options.false_alarm_every,
        unseen_subjects=tuple(int(s) for s in options.unseen.split(",") if s) or None,
    )
    if options.factory or options.weights:
        if not (options.factory and options.weights) or options.backbone:
            raise UsageError(
                "--factory and --weights go together, without --backbone", field="--factory"
            )
        bundle = create_bundle_from_module(
            options.factory,
            options.weights,
            windows,
            options.out,
            head=options.head,
            evidence=Evidence(**evidence),
        )
    else:
        recipe = Recipe(**_given(epochs=options.epochs, seed=options.seed))
        bundle = create_bundle(
            windows,
            options.backbone or "t_resnet",
            options.out,
            recipe=recipe,
            evidence=Evidence(**evidence),
        )
    _describe(options, bundle.path)


def _show(options: argparse.Namespace) -> None:
    _describe(options, options.bundle)


def _verify(options: argparse.Namespace) -> None:
    from edgetuner.bundle import verify

    manifest = verify(options.bundle)
    if options.json:
        show_json({"version": manifest.version, "verified": sorted(manifest.files)})
    else:
        print(f"{manifest.version}: {len(manifest.files)} files verified")


def _describe(options: argparse.Namespace, path: Path) -> None:
    from edgetuner.bundle import read_manifest

    manifest = read_manifest(path).model_dump(mode="json", exclude_none=True)
    if options.json:
        show_json(manifest)
    else:
        print(tree(manifest))


def _source(options: argparse.Namespace) -> WindowSet:
    from edgetuner.data import load, parse_selectors

    if options.source[0].suffix == ".npz":
        if len(options.source) > 1:
            raise UsageError("only one .npz at a time", field="source", value=len(options.source))
        windows = load(options.source[0])
    else:
        windows = _recordings(options)
    return windows.select(**parse_selectors(options.select))


def _recordings(options: argparse.Namespace) -> WindowSet:
    from edgetuner.recordings import WindowRule, load_recordings

    for name in ("length", "hz"):
        if getattr(options, name) is None:
            raise UsageError("needed for recordings", field=f"--{name}", remedy="give it")
    rule = WindowRule(
        **_given(
            length=options.length,
            hop=options.hop or options.length,
            hz=options.hz,
            label=options.label,
            time=options.time,
            channels=tuple(options.channels.split(",")) if options.channels else None,
            groups=tuple(filter(None, options.groups.split(","))),
        )
    )
    return load_recordings(options.source, rule)


def _given(**values: Any) -> dict[str, Any]:
    """Those that were given: the rest keeps the default of the library."""
    return {name: value for name, value in values.items() if value is not None}
