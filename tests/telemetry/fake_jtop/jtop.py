"""Stands in for jetson-stats in the child process; FAKE_JTOP says how it behaves.

Shapes are those of jetson-stats 7.2 on an Orin Nano: VDD_IN moved to `tot`, a sensor that is off
at -256. Every start is announced by its process id on the FIFO FAKE_JTOP_STARTS.
"""

import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

BEHAVIOUR = os.environ["FAKE_JTOP"]

if BEHAVIOUR == "absent":
    raise ImportError("No module named 'jtop'")


class JtopException(Exception):
    pass


def _rail(milliwatts, online=True):
    return {
        "type": "INA3221",
        "volt": 5000,
        "curr": milliwatts // 5,
        "warn": 3000,
        "crit": 4000,
        "power": milliwatts,
        "online": online,
        "avg": milliwatts,
    }


class _NvpModel:
    name = "15W"


class jtop:
    interval = 0.05
    power: ClassVar = {
        "rail": {"VDD_CPU_GPU_CV": _rail(850), "VDD_SOC": _rail(1_450)},
        "tot": {**_rail(5_081), "name": "VDD_IN"},
    }
    temperature: ClassVar = {
        "cpu": {"temp": 48.5, "online": True},
        "gpu": {"temp": 47.25, "online": True},
        "cv0": {"temp": -256, "online": False},
    }
    gpu: ClassVar = {"gpu": {"type": "integrated", "status": {"load": 12.5}}}
    nvpmodel = _NvpModel()

    def __init__(self, interval):
        self._readings = 0

    def start(self):
        os.write(1, b"a library that talks on standard output\n")
        with Path(os.environ["FAKE_JTOP_STARTS"]).open("a") as starts:
            starts.write(f"{os.getpid()}\n")
        if BEHAVIOUR == "hangs":
            threading.Event().wait()
        if BEHAVIOUR == "raises":
            raise JtopException("The jtop.service is not active. Please run:\nsudo jtop")
        if BEHAVIOUR == "breaks":
            raise KeyError("power")

    def ok(self, spin=False):
        assert spin, "ok() that waits gives up on a slow server"
        self._readings += 1
        if BEHAVIOUR == "dies" and self._readings > 3:
            os._exit(3)
        return not (BEHAVIOUR in ("stops", "never") and self._readings > 3)

    @property
    def uptime(self):
        advances = {"never": 0, "stale": 2}.get(BEHAVIOUR, self._readings)
        return timedelta(seconds=1000 + min(self._readings, advances))
