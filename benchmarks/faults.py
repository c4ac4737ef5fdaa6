"""Sensors that break: corruptions of a stream of windows, and the name that each should be given.

Each takes windows x (N, C, T) of one stream, in time order, from where the fault begins, and a
random generator, and returns as many windows as the broken sensor would have sent. Channels come in
threes, an accelerometer first and a gyroscope behind it, as in every data set of the benchmarks.
Windows need not be all different from what they were: a rail that nobody hits changes nothing, and
such a window is no evidence for anybody (`touched`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Windows = NDArray[np.floating[Any]]
Corruption = Callable[[Windows, np.random.Generator], Windows]

_AXES = 3


def flat_line(x: Windows, rng: np.random.Generator) -> Windows:
    """A broken wire: one channel stays at its last value."""
    broken, channel = x.copy(), rng.integers(x.shape[1])
    broken[:, channel] = x[0, channel, 0]
    return broken


def flat_all(x: Windows, rng: np.random.Generator) -> Windows:
    """A driver that repeats its last reading: every channel stays where it was."""
    return np.broadcast_to(x[:1, :, :1], x.shape).copy()


def stuck_with_noise(x: Windows, rng: np.random.Generator) -> Windows:
    """One channel is dead, but its converter still dithers: a thousandth of the usual spread."""
    broken = flat_line(x, rng)
    channel = int((broken != x).sum((0, 2)).argmax())
    jitter = 1e-3 * x[:, channel].std() * rng.standard_normal(x[:, channel].shape)
    broken[:, channel] += jitter.astype(x.dtype)
    return broken


def dropouts(x: Windows, rng: np.random.Generator) -> Windows:
    """A loose cable: in every window all channels hold their value for two fifths of the time."""
    broken, length = x.copy(), x.shape[2]
    held = 2 * length // 5
    for window in broken:
        start = int(rng.integers(length - held))
        window[:, start : start + held] = window[:, start, None]
    return broken


def clipping(x: Windows, rng: np.random.Generator) -> Windows:
    """Too small a full scale: an accelerometer's rails at half its largest value."""
    broken = x.copy()
    rail = np.abs(x[:, :_AXES]).max() / 2
    broken[:, :_AXES] = np.clip(x[:, :_AXES], -rail, rail)
    return broken


def clipped_axis(x: Windows, rng: np.random.Generator) -> Windows:
    """A converter out of its range: one channel loses what lies above its upper quartile."""
    broken, channel = x.copy(), rng.integers(x.shape[1])
    broken[:, channel] = np.minimum(x[:, channel], np.quantile(x[:, channel], 0.75))
    return broken


def wrong_unit(x: Windows, rng: np.random.Generator) -> Windows:
    """Acceleration in another unit: m/s^2 for g."""
    return _scaled(x, slice(0, _AXES), 9.81)


def spikes(x: Windows, rng: np.random.Generator) -> Windows:
    """Bit errors: two samples of every window are far beyond anything the sensor can measure."""
    broken = x.copy()
    reach = 20 * np.abs(x).max((0, 2))
    for window in broken:
        channels = rng.integers(x.shape[1], size=2)
        window[channels, rng.integers(x.shape[2], size=2)] = reach[channels]
    return broken


def twice_the_rate(x: Windows, rng: np.random.Generator) -> Windows:
    """A rate twice as high that nobody states: a window holds half the time."""
    return _resampled(x, 0.5)


def half_the_rate(x: Windows, rng: np.random.Generator) -> Windows:
    """Half the rate that nobody states: a window holds its own time and the next one's."""
    longer = np.concatenate([x, np.concatenate([x[1:], x[-1:]])], axis=2)
    return np.ascontiguousarray(longer[:, :, ::2])


def swapped_accelerometer(x: Windows, rng: np.random.Generator) -> Windows:
    """A driver that mixes up two axes of the accelerometer."""
    return _swapped(x, (0,), rng)


def swapped_axes(x: Windows, rng: np.random.Generator) -> Windows:
    """A driver that mixes up two axes of every sensor."""
    return _swapped(x, range(0, x.shape[1], _AXES), rng)


def turned_axis(x: Windows, rng: np.random.Generator) -> Windows:
    """One axis of every sensor has the wrong sign."""
    axis = int(rng.integers(_AXES))
    return _scaled(x, slice(axis, None, _AXES), -1)


def turned_gyroscope(x: Windows, rng: np.random.Generator) -> Windows:
    """One axis of the last sensor has the wrong sign."""
    channel = x.shape[1] - 1 - int(rng.integers(_AXES))
    return _scaled(x, slice(channel, channel + 1), -1)


def gain_of_all(x: Windows, rng: np.random.Generator) -> Windows:
    """All channels at half or twice their size."""
    return _scaled(x, slice(None), _factor(rng))


def gain_of_accelerometer(x: Windows, rng: np.random.Generator) -> Windows:
    """An unknown full scale: the accelerometer at half or twice its size."""
    return _scaled(x, slice(0, _AXES), _factor(rng))


def gain_of_channel(x: Windows, rng: np.random.Generator) -> Windows:
    """One channel at half or twice its size."""
    channel = int(rng.integers(x.shape[1]))
    return _scaled(x, slice(channel, channel + 1), _factor(rng))


def offset_of_channel(x: Windows, rng: np.random.Generator) -> Windows:
    """One channel off by twice its spread over the stream, and half of what its sensor measures."""
    broken, channel = x.copy(), int(rng.integers(x.shape[1]))
    first = channel - channel % _AXES
    size = 2 * x[:, channel].std() + 0.5 * np.sqrt(np.square(x[:, first : first + _AXES]).mean())
    broken[:, channel] += x.dtype.type(rng.choice((-1, 1)) * size)
    return broken


def upside_down(x: Windows, rng: np.random.Generator) -> Windows:
    """The sensor turned by half a turn about one axis: two axes of every sensor reversed."""
    axis = int(rng.integers(_AXES))
    turned = [c for c in range(x.shape[1]) if c % _AXES != axis]
    return _scaled(x, turned, -1)


def mirrored(x: Windows, rng: np.random.Generator) -> Windows:
    """The other side of the body: one axis of the accelerometer, two of the gyroscope reversed."""
    axis = int(rng.integers(_AXES))
    return _scaled(x, [axis, *(c for c in range(_AXES, x.shape[1]) if c % _AXES != axis)], -1)


FAULTS: dict[str, Corruption] = {
    corruption.__name__: corruption
    for corruption in (
        *(flat_line, flat_all, stuck_with_noise, dropouts),
        *(clipping, clipped_axis, wrong_unit, spikes, twice_the_rate, half_the_rate),
        *(swapped_accelerometer, swapped_axes, turned_axis, turned_gyroscope),
        *(gain_of_all, gain_of_accelerometer, gain_of_channel, offset_of_channel),
    )
}
# What a wearer may do as well: no faults, but changes that a model can learn.
WORN: dict[str, Corruption] = {change.__name__: change for change in (upside_down, mirrored)}
# What the service should call them; the first is best, the others are true as well.
NAMES: dict[str, tuple[str, ...]] = {
    "flat_line": ("flat_line",),
    "flat_all": ("flat_line",),
    "stuck_with_noise": ("flat_line",),
    "dropouts": ("flat_line",),
    "clipping": ("clipping", "flat_line"),  # gravity alone may exceed a rail
    "clipped_axis": ("clipping",),
    "wrong_unit": ("range", "gain", "calibration"),
    "spikes": ("range",),
    "twice_the_rate": ("rate",),
    "half_the_rate": ("rate",),
    "swapped_accelerometer": ("axis_swap",),
    "swapped_axes": ("axis_swap",),
    "turned_axis": ("axis_swap",),
    "turned_gyroscope": ("axis_swap",),
    "gain_of_all": ("gain", "calibration"),
    "gain_of_accelerometer": ("gain", "calibration"),
    "gain_of_channel": ("gain", "calibration"),
    "offset_of_channel": ("offset", "calibration"),
}


def touched(before: Windows, after: Windows) -> NDArray[np.bool_]:
    """Which windows the fault changed by more than a thousandth of a channel's spread, (N,)."""
    scale = before.std((0, 2))[:, None]
    changed: NDArray[np.bool_] = (np.abs(after - before) > 1e-3 * scale).any((1, 2))
    return changed


def _scaled(x: Windows, channels: slice | list[int], factor: float) -> Windows:
    broken = x.copy()
    broken[:, channels] *= factor
    return broken


def _swapped(x: Windows, sensors: range | tuple[int, ...], rng: np.random.Generator) -> Windows:
    broken, axes = x.copy(), rng.permutation(_AXES)[:2]
    for first in sensors:
        broken[:, first + axes] = x[:, first + axes[::-1]]
    return broken


def _resampled(x: Windows, share: float) -> Windows:
    """The first `share` of each window, stretched over all of its samples."""
    length = x.shape[2]
    at = np.arange(length) * share
    left = at.astype(int)
    weight = (at - left).astype(x.dtype)
    right = np.minimum(left + 1, length - 1)
    stretched: Windows = x[..., left] * (1 - weight) + x[..., right] * weight
    return stretched


def _factor(rng: np.random.Generator) -> float:
    return float(rng.choice((0.5, 2.0)))
