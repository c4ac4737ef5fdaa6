"""What may happen to a stream of windows and to its labels, one function a scenario.

A stream is of one person where he has enough windows, else of everybody at home. No window comes
twice, so nothing that a policy has learned from is shown to it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.bouts import Bouts, ends, played_once
from benchmarks.detection import pairs
from benchmarks.faults import FAULTS, Corruption, touched
from benchmarks.homes import Home
from edgetuner.data import WindowSet

LABEL_EVERY = 4  # windows: somebody says what he does
LABEL_LATE_S = 30.0  # and he says it so much later
BURST, PAUSE = 30, 30  # windows of a fault of the sensor, and of none after it

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """Windows in the order in which they come, and what is said of them.

    Attributes:
        windows: raw, with the truth in `y`, which no policy sees.
        label: class that somebody says, int64 (N,); -1 where nobody says anything.
        due: number of the window after which the label has arrived, int64 (N,).
        hop_s: seconds from one window to the next.
        changes: numbers of the windows at which circumstances changed.
        settled: number of the window from which the last change is complete.
        faults: (name, first window that it changed, window after the last) of every fault of the
            sensor.
        faulty: which windows a fault has changed, (N,).
    """

    windows: WindowSet
    label: Ints
    due: Ints
    hop_s: float
    changes: tuple[int, ...] = ()
    settled: int = 0
    faults: tuple[tuple[str, int, int], ...] = ()
    faulty: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        if not len(self.faulty):
            object.__setattr__(self, "faulty", np.zeros(len(self), bool))

    def __len__(self) -> int:
        return len(self.windows)

    def t_ns(self, row: int) -> int:
        """When a window came, in nanoseconds since the stream began; none is from before that."""
        return (row + 1) * round(1e9 * self.hop_s)


@dataclass(frozen=True, eq=False)
class Cast:
    """Who and what takes part, and how much of it there is to be.

    Attributes:
        home: the model's.
        before, after: windows before the change and after it, at most.
        seed: of all that is drawn.
        faults: what a sensor may do.
        bouts: lengths of bouts.
    """

    home: Home
    before: int
    after: int
    seed: int
    faults: Mapping[str, Corruption] = field(default_factory=lambda: FAULTS)
    bouts: Bouts = field(default_factory=Bouts)

    def draw(self, what: int) -> np.random.Generator:
        """A generator for one purpose."""
        return np.random.default_rng([self.seed, what])

    def worn(self) -> tuple[WindowSet, WindowSet]:
        """Windows at home and away: of one person where they are enough, else of everybody."""
        both = pairs(self.home.home, self.home.away)
        at_home, away = both[self.seed % len(both)]
        if len(at_home) < 1.2 * self.before:
            at_home = self.home.home
        if len(away) < 0.8 * self.after:
            away = self.home.away
        return at_home, away

    def played(self, windows: WindowSet, count: int, what: int) -> WindowSet:
        """At most `count` of them in bouts; the last sixth is left out, which is of few classes."""
        count = min(count, len(windows) * 5 // 6)
        return windows.take(
            played_once(windows, count, self.bouts, self.home.hop_s, self.draw(what))
        )


Scenario = Callable[[Cast], Stream]


def stationary(cast: Cast) -> Stream:
    """Nothing changes: the people that the model knows, later."""
    return _labelled(cast, cast.played(cast.home.home, cast.before + cast.after, 0))


def sudden(cast: Cast) -> Stream:
    """From one window to the next the sensor sits elsewhere, or somebody else wears it."""
    at_home, away = cast.worn()
    before = cast.played(at_home, cast.before, 0)
    after = cast.played(away, cast.after, 1)
    stream = _labelled(cast, before.plus(after))
    return replace(stream, changes=(len(before),), settled=len(before))


def gradual(cast: Cast) -> Stream:
    """Bouts of the new circumstances become more frequent, over a third of what comes after."""
    at_home, away = cast.worn()
    before = cast.played(at_home, cast.before, 0)
    after = cast.played(away, cast.after, 1)
    over = len(after) // 3
    rest = at_home.take(_unplayed(at_home, before))
    between = cast.played(rest, over // 2, 2) if len(rest) else rest
    early = _interleaved(between, after.take(np.arange(over)), cast.draw(3))
    late = after.take(np.arange(over, len(after)))
    stream = _labelled(cast, before.plus(early).plus(late))
    first = len(before)
    return replace(stream, changes=(first,), settled=first + len(early))


def recurring(cast: Cast) -> Stream:
    """Away, home, away again."""
    _, away = cast.worn()
    at_home = cast.played(cast.home.home, 2 * cast.before, 0)
    half = len(at_home) // 2
    there = cast.played(away, cast.after, 1)
    first, again = np.array_split(np.arange(len(there)), 2)
    parts = [
        at_home.take(np.arange(half)),
        there.take(first),
        at_home.take(np.arange(half, len(at_home))),
        there.take(again),
    ]
    whole = parts[0]
    changes = []
    for part in parts[1:]:
        changes.append(len(whole))
        whole = whole.plus(part)
    return replace(_labelled(cast, whole), changes=tuple(changes), settled=changes[0])


def faults(cast: Cast) -> Stream:
    """A sudden change, and a sensor that breaks again and again, each time in another way."""
    stream = sudden(cast)
    x, happened, draw = stream.windows.x.copy(), [], cast.draw(6)
    names = draw.permutation(list(cast.faults)).tolist()
    faulty = np.zeros(len(stream), bool)
    starts = np.arange(PAUSE, len(stream) - BURST, BURST + PAUSE)
    for number, start in enumerate(starts.tolist()):
        name, rows = names[number % len(names)], np.arange(start, start + BURST)
        x[rows] = cast.faults[name](x[rows], draw)
        faulty[rows] = touched(stream.windows.x[rows], x[rows])
        if faulty[rows].any():
            happened.append((name, int(rows[faulty[rows]][0]), start + BURST))
    windows = replace(stream.windows, x=x)
    return replace(stream, windows=windows, faults=tuple(happened), faulty=faulty)


def no_labels(cast: Cast) -> Stream:
    """A sudden change, of which nobody says anything."""
    stream = sudden(cast)
    return replace(stream, label=np.full(len(stream), -1))


def labels_that_end(cast: Cast) -> Stream:
    """A sudden change; two fifths into what comes after, whoever labels has had enough of it."""
    stream = sudden(cast)
    end = stream.changes[0] + 2 * (len(stream) - stream.changes[0]) // 5
    return replace(stream, label=np.where(np.arange(len(stream)) < end, stream.label, -1))


def late_labels(cast: Cast) -> Stream:
    """A sudden change; labels come ten minutes later."""
    stream = sudden(cast)
    return replace(stream, due=np.arange(len(stream)) + round(600 / stream.hop_s))


def wrong_labels(share: float) -> Scenario:
    """A sudden change; a share of the labels names any other class."""

    def scenario(cast: Cast) -> Stream:
        stream, draw = sudden(cast), cast.draw(4)
        classes = len(stream.windows.classes)
        other = (stream.label + draw.integers(1, classes, len(stream))) % classes
        wrong = (stream.label >= 0) & (draw.random(len(stream)) < share)
        return replace(stream, label=np.where(wrong, other, stream.label))

    return scenario


def two_classes(cast: Cast) -> Stream:
    """A sudden change; for its first half only two classes come, then all of them."""
    at_home, away = cast.worn()
    before = cast.played(at_home, cast.before, 0)
    shown = cast.draw(5).permutation(np.unique(away.y))[:2]
    few = cast.played(away.take(np.isin(away.y, shown)), cast.after // 2, 1)
    others = away.take(_unplayed(away, few))
    after = few.plus(cast.played(others, cast.after // 2, 2))
    stream = _labelled(cast, before.plus(after))
    return replace(stream, changes=(len(before),), settled=len(before))


def attack(cast: Cast) -> Stream:
    """A sudden change; half of what comes after, all labels are of the next class, without doubt
    or exception; then they are right.
    """
    stream = sudden(cast)
    return _attacked(stream, stream.changes[0], (stream.changes[0] + len(stream)) // 2)


def attack_at_home(cast: Cast) -> Stream:
    """Nothing changes, but for a third of the stream all labels are of the next class."""
    stream = stationary(cast)
    return _attacked(stream, len(stream) // 3, 2 * len(stream) // 3)


SCENARIOS: dict[str, Scenario] = {
    "stationary": stationary,
    "sudden": sudden,
    "gradual": gradual,
    "recurring": recurring,
    "sensor faults": faults,
    "no labels": no_labels,
    "labels that end": labels_that_end,
    "late labels": late_labels,
    "10 % wrong labels": wrong_labels(0.1),
    "30 % wrong labels": wrong_labels(0.3),
    "two classes": two_classes,
    "attack": attack,
    "attack at home": attack_at_home,
}


def _labelled(cast: Cast, windows: WindowSet) -> Stream:
    """Every fourth window gets its label, half a minute later."""
    number = np.arange(len(windows))
    hop_s = cast.home.hop_s
    return Stream(
        windows,
        label=np.where(number % LABEL_EVERY == 0, windows.y, -1),
        due=number + max(1, round(LABEL_LATE_S / hop_s)),
        hop_s=hop_s,
    )


def _attacked(stream: Stream, first: int, end: int) -> Stream:
    number = np.arange(len(stream))
    hostile = (stream.label >= 0) & (number >= first) & (number < end)
    following = (stream.label + 1) % len(stream.windows.classes)
    return replace(stream, label=np.where(hostile, following, stream.label))


def _unplayed(windows: WindowSet, gone: WindowSet) -> NDArray[np.bool_]:
    """Which windows are not among those, told by their samples."""
    known = {x.tobytes() for x in gone.x}
    return np.array([x.tobytes() not in known for x in windows.x], bool)


def _interleaved(old: WindowSet, new: WindowSet, draw: np.random.Generator) -> WindowSet:
    """Bouts of both, the old ones the rarer the later."""
    bouts = [(float(draw.beta(1, 2)), old.take(np.arange(*edge))) for edge in ends(old.y)]
    bouts += [(float(draw.beta(2, 1)), new.take(np.arange(*edge))) for edge in ends(new.y)]
    bouts.sort(key=lambda bout: bout[0])
    mixed = bouts[0][1]
    for _, bout in bouts[1:]:
        mixed = mixed.plus(bout)
    return mixed
