"""What windows tell of a sensor beside those before them: leaps, and axes that are mirrored.

The former are told from an activity that a stream is known by, at once and in every detail
(`distortion`); the latter by themselves, whatever comes before, but only after some turns
(`handedness`). So the one names what began unseen, and corrects the other, which knows no more than
what changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetuner.drift.distortion import Distortion, DistortionSettings, Leap
from edgetuner.drift.handedness import ENOUGH, Handedness, Mirror
from edgetuner.drift.magnitude import Magnitude
from edgetuner.drift.maps import AXES
from edgetuner.drift.summary import Floats
from edgetuner.drift.usual import Usual

NO_LEAP = Leap(None, None, 0, False)
_AT_ONCE = 8  # windows, while nothing is wrong


class Comparison:
    """Watches one stream for what a single window does not show.

    Args:
        usual, magnitude, handedness: what is known of the source's sensor.
        settings: when a leap is a fault.
    """

    def __init__(
        self,
        usual: Usual,
        magnitude: Magnitude | None = None,
        handedness: Handedness | None = None,
        settings: DistortionSettings | None = None,
    ) -> None:
        self._distortion = Distortion(usual, settings, magnitude)
        self._handedness = handedness
        self._mirror = Mirror() if handedness else None
        self._lasting = self._distortion.settings.lasting
        self._against = False  # whether axes that are swapped now would be against each other
        self._stood = 0  # windows since axes are mirrored

    @property
    def fault(self) -> str | None:
        """The fault that stands by this, or None."""
        return AXES if self._mirror and self._mirror.mirrored else self._distortion.fault

    def update_many(
        self,
        features: Floats,
        seqs: Sequence[int],
        broken: Sequence[bool],
        mirrored: Floats | None = None,
    ) -> list[Leap]:
        """Takes the next windows: what is known after each of them.

        Args:
            features: of the windows (N, F).
            seqs: their numbers.
            broken: which are known to be of a broken sensor.
            mirrored: evidence for mirrored axes (N,), where there is any.
        """
        if self._mirror is None or mirrored is None:
            return self._distortion.update_many(features, seqs, broken)
        gains, told = mirrored.tolist(), list[Leap]()
        while len(told) < len(gains):
            some = slice(len(told), len(told) + _AT_ONCE)
            if self.fault is not None or self._mirror.may_turn(gains[some]):
                some = slice(len(told), len(told) + 1)  # what it tells is to be known at once
            told += self._take(features[some], seqs[some], broken[some], gains[some], self._mirror)
        return told

    def _take(
        self,
        features: Floats,
        seqs: Sequence[int],
        broken: Sequence[bool],
        gains: Sequence[float],
        mirror: Mirror,
    ) -> list[Leap]:
        """Takes one window, or some that find no fault and cannot tell of mirrored axes."""
        before, distortion = mirror.mirrored, self._distortion
        # Mirrored nobody knows how, windows are not what a stream should be known by.
        known = not before or distortion.fault == AXES
        leaps = [NO_LEAP] if not known else distortion.update_many(features, seqs, broken)
        for gain, seq in zip(gains, seqs, strict=True):
            mirror.update(gain, seq)
        leap = leaps[-1]
        if leap.new and leap.fault is None:  # as before the fault, or as things are from now on
            if distortion.accepted and (before or self._against):
                mirror.accept()
            elif before:
                mirror.forget()
            self._stood = 0
            return leaps
        if mirror.mirrored:
            return [self._mirrored(leap, before, mirror)]
        self._stood = 0
        if before:
            if distortion.fault == AXES:
                distortion.end(mirror.since_seq)
            return [Leap(distortion.fault, distortion.channel, mirror.since_seq, True)]
        if leap.fault == AXES:
            return self._doubted(leaps, mirror)
        return leaps

    def _mirrored(self, leap: Leap, before: bool, mirror: Mirror) -> Leap:
        """What is known after a window, if axes are mirrored."""
        self._stood += 1
        if self._stood > self._lasting and mirror.latest() > ENOUGH:
            mirror.accept()
            self._distortion.accept(mirror.seq)
            self._stood = 0
            return Leap(None, None, mirror.seq, True)
        if leap.fault == AXES:
            return leap
        if not before:
            self._distortion.doubt(mirror.count)
        return Leap(AXES, None, mirror.since_seq, not before)

    def _doubted(self, leaps: list[Leap], mirror: Mirror) -> list[Leap]:
        """Leaps that say that axes are not as they should be, unless they turn as they should: then
        it was before that they were not.
        """
        new = any(leap.new for leap in leaps)
        if new:
            self._against = self._turned()
        if not self._against or mirror.latest(self._distortion.count) > -ENOUGH:
            return leaps
        self._distortion.refute()
        if new:
            return [NO_LEAP if leap.fault == AXES else leap for leap in leaps]
        return [Leap(None, None, leaps[-1].since_seq, True)]

    def _turned(self) -> bool:
        """Whether the map that stands would have turned more axes against each other than not."""
        repair, pair = self._distortion.repair, self._handedness
        if repair is None or pair is None:
            return False
        return repair.agreement(pair.accelerometer, pair.gyroscope) < 0
