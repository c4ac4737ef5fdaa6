"""A board for computers that have none. Its samples say `simulated`; memory is the host's own.

The numbers are plausible for an Orin Nano and are not measurements: power follows what the service
says it is doing, temperature follows power through one thermal resistance and one time constant.
"""

from __future__ import annotations

import math
import random
import time

from edgetuner.telemetry.proc import Proc
from edgetuner.telemetry.sample import SIMULATED, Sample
from edgetuner.telemetry.source import Options

_LOAD = {"idle": 0.03, "infer": 0.25, "train": 0.9}  # share of the board at work, by phase

_CARRIER_W = 2.4  # VDD_IN beyond the two rails below: memory, storage, conversion loss
_SOC_W = (1.2, 1.3)  # at rest, and what full load adds
_CPU_GPU_W = (0.8, 10.5)
_NOISE = 0.02  # relative standard deviation of a rail

_AMBIENT_C = 25.0
_RESISTANCE_C_PER_W = 2.8  # small heat sink and fan
_TIME_CONSTANT_S = 60.0
_PASSIVE_TRIP_C = 95.0


class Simulated:
    """A deterministic board: the same seed, phases and clock give the same samples."""

    def __init__(self, options: Options) -> None:
        self._clock = options.clock
        self._phase = options.phase
        self._proc = Proc(options.sysroot)
        self._trace = options.trace
        self._random = random.Random(options.seed)
        self._start_s = self._last_s = self._clock()
        self._celsius = _AMBIENT_C + _RESISTANCE_C_PER_W * sum(_rails_w(_LOAD["idle"]).values())

    def read(self) -> Sample:
        """See `Source.read`. Never fails."""
        now_s = self._clock()
        if self._trace is not None:
            stamp = {"t": time.time(), "monotonic_s": now_s}
            return self._trace.at(now_s - self._start_s).model_copy(update=stamp)
        load = _LOAD.get(self._phase(), _LOAD["infer"])
        rails_w = {name: watts * self._noise() for name, watts in _rails_w(load).items()}
        input_w = sum(rails_w.values())
        self._warm(input_w, now_s)
        return Sample(
            source=SIMULATED,
            t=time.time(),
            monotonic_s=now_s,
            power_w={
                "VDD_IN": input_w,
                "VDD_CPU_GPU_CV": rails_w["VDD_CPU_GPU_CV"],
                "VDD_SOC": rails_w["VDD_SOC"],
            },
            total_power_w=input_w,
            temperature_c={"cpu": self._celsius, "gpu": self._celsius - 0.5, "tj": self._celsius},
            passive_trip_c={"tj": _PASSIVE_TRIP_C},
            gpu_load=min(1.0, load * self._noise()),
            over_current=(),
            **self._proc.read(),
        )

    def close(self) -> None:
        """Nothing is open."""

    def _noise(self) -> float:
        return max(0.0, self._random.gauss(1.0, _NOISE))

    def _warm(self, input_w: float, now_s: float) -> None:
        """One step of dT/dt = (T_ambient + R P - T) / tau, exact for constant power."""
        steady_c = _AMBIENT_C + _RESISTANCE_C_PER_W * input_w
        decay = math.exp(-max(0.0, now_s - self._last_s) / _TIME_CONSTANT_S)
        self._celsius = steady_c + (self._celsius - steady_c) * decay
        self._last_s = now_s


def _rails_w(load: float) -> dict[str, float]:
    return {
        "carrier": _CARRIER_W,
        "VDD_CPU_GPU_CV": _CPU_GPU_W[0] + load * _CPU_GPU_W[1],
        "VDD_SOC": _SOC_W[0] + load * _SOC_W[1],
    }
