"""Noticing that the windows are no longer those the model was made for.

embedding -> distance to the statistics of its *predicted* class -> standard score among held-out
windows of that class -> CUSUM under a random effect of each class, whose threshold comes from
simulated streams with realistic bouts. The model's confidence takes the same way, and so do errors
where labels come. A fault of the sensor is told apart, since no training can repair it.
"""

from edgetuner.drift.calibrate import calibrate
from edgetuner.drift.cusum import Cusum, Spread
from edgetuner.drift.error import ErrorRate, LabelledError
from edgetuner.drift.histogram import Histogram
from edgetuner.drift.life import bouts_of
from edgetuner.drift.monitor import DriftMonitor, Finding, MonitorSettings, StreamKey
from edgetuner.drift.reference import DETECTORS, Calibration, Reference
from edgetuner.drift.sensor import SensorCheck, SensorProfile, SensorSettings

__all__ = [
    "DETECTORS",
    "Calibration",
    "Cusum",
    "DriftMonitor",
    "ErrorRate",
    "Finding",
    "Histogram",
    "LabelledError",
    "MonitorSettings",
    "Reference",
    "SensorCheck",
    "SensorProfile",
    "SensorSettings",
    "Spread",
    "StreamKey",
    "bouts_of",
    "calibrate",
]
