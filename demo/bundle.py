"""Makes the bundle that ships with the demo: `python -m demo.bundle`, a few minutes on one core.

The source is the right wrist of eight people: six are learned, two say how strange another person
may look without being drift. The demo streams the other two, first on the right wrist and then on
the left. `--pair` keeps another pair out, to see how typical the demo's is:
`python -m demo.bundle --pair 5 6 --out build/pair56`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

from demo.recordings import POSITIONS, watch_windows
from edgetuner.augment import Augmentation
from edgetuner.bundle import Bundle
from edgetuner.data import WindowSet
from edgetuner.inference import ModelVersion
from edgetuner.metrics import macro_f1
from edgetuner.pretrain import Evidence, Recipe, create_bundle

PAIR = (7, 10)
# Not trained on; without such people every new person raises an alarm. Chosen among the eight
# alone, by leaving out one further pair at a time (six people, right wrist, then left): with 1 and
# 2 at home there are 2 false alarms and all 6 shifts are found; with 5 and 6 it is 4 and 6, with 8
# and 9 it is 5 and 6, with 3 and 4 it is 1 and 1.
HOME = (1, 2)
OUT = Path(__file__).parent / "bundle"
# Chosen likewise, by macro-F1: augmentation .85, none .79.
RECIPE = Recipe(epochs=12, augmentation=Augmentation(rotation_deg=15, scale=0.1, jitter=0.05))


def make(out: Path, pair: tuple[int, int] = PAIR, recipe: Recipe = RECIPE) -> Bundle:
    """Trains on the right wrist of everybody but `pair` and writes the bundle to `out`."""
    return create_bundle(
        watch_windows().select(position="right_wrist"),
        "t_resnet",
        out,
        recipe=recipe,
        evidence=Evidence(
            unseen_subjects=pair,
            calibration_subjects=() if set(HOME) & set(pair) else HOME,
            arl_windows=10_000,
            bouts=(4, 16),
        ),
        on_epoch=lambda epoch, loss: print(f"epoch {epoch:2}  loss {loss:.3f}", flush=True),
    )


def measure(bundle: Bundle, windows: WindowSet) -> float:
    """Macro-F1 of the bundle on `windows`."""
    return macro_f1(windows.y, ModelVersion(bundle).predict(windows.x).predicted)


def main() -> None:
    """Makes the bundle, puts it in place of the old one, and says how good it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder (default: {OUT.name})")
    parser.add_argument("--pair", type=int, nargs=2, default=PAIR, help="people kept out")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    begun = time.monotonic()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent) as scratch:
        made = make(Path(scratch) / "bundle", tuple(options.pair))
        shutil.rmtree(options.out, ignore_errors=True)
        made.path.rename(options.out)
    bundle = Bundle.load(options.out)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{bundle.version}: {size / 1e6:.2f} MB, {time.monotonic() - begun:.0f} s")
    print(f"macro-F1, the six, later:         {bundle.manifest.metrics['held_out_macro_f1']:.3f}")
    windows = watch_windows().select(subject=options.pair)
    for position in reversed(POSITIONS):
        f1 = measure(bundle, windows.select(position=position))
        print(f"macro-F1, the pair, {position + ':':13}{f1:.3f}")


if __name__ == "__main__":
    main()
