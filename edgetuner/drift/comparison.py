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
        self._refuted_seq: int | None = None  # where the latest leap was that was none
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
        mirror, distortion = self._mirror, self._distortion
        if mirror is None or mirrored is None:
            return distortion.update_many(features, seqs, broken)
        # Mirrored nobody knows how, windows are not what a stream should be known by.
        if mirror.mirrored and distortion.fault != AXES:
            leaps = [NO_LEAP] * len(features)
        else:
            leaps = distortion.update_many(features, seqs, broken)
        told = zip(leaps, mirrored.tolist(), seqs, strict=True)
        return [self._handed(leap, gain, seq, mirror) for leap, gain, seq in told]

    def _handed(self, leap: Leap, gain: float, seq: int, mirror: Mirror) -> Leap:
        """What is known after a window, by its leap and the evidence for mirrored axes."""
        before, distortion = mirror.mirrored, self._distortion
        if before and leap.new and leap.fault is None:
            if distortion.accepted:
                mirror.accept()
            else:
                mirror.forget()
        mirror.update(gain, seq)
        if leap.fault == AXES and self._refuted_seq != leap.since_seq:
            if self._turned() and mirror.since(leap.since_seq) < -ENOUGH:
                self._refuted_seq, new = leap.since_seq, leap.new
                distortion.refute()
                leap = NO_LEAP if new else Leap(None, None, leap.since_seq, True)
        elif leap.fault == AXES:
            leap = NO_LEAP
        self._stood = self._stood + 1 if mirror.mirrored else 0
        if self._stood > self._lasting:
            mirror.accept()
            distortion.accept(seq)
            return Leap(None, None, seq, True)
        if mirror.mirrored:
            if leap.fault == AXES:
                return leap if not before else leap._replace(new=False)
            if not before:
                distortion.doubt(mirror.count)
            return Leap(AXES, None, mirror.since_seq, not before)
        if not before:
            return leap
        if distortion.fault == AXES:
            distortion.end(mirror.since_seq)
        return Leap(None, None, mirror.since_seq, True)

    def _turned(self) -> bool:
        """Whether the leap's map, if it still stands, would have turned more axes against each
        other than not.
        """
        fault, repair, pair = self._distortion.fault, self._distortion.repair, self._handedness
        if fault != AXES or repair is None or pair is None:
            return False
        return repair.agreement(pair.accelerometer, pair.gyroscope) < 0
