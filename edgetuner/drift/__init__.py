"""Noticing that the windows are no longer those the model was made for.

embedding -> distance to the statistics of its *predicted* class -> conformal p-value among held-out
windows of that class -> normal score -> CUSUM, whose threshold comes from simulated streams with
realistic bouts. The model's confidence takes the same way. A fault of the sensor is told apart,
since no training can repair it.
"""

from edgetuner.drift.calibrate import calibrate
from edgetuner.drift.conformal import DETECTORS, Calibration, Reference
from edgetuner.drift.cusum import Cusum
from edgetuner.drift.monitor import DriftMonitor, Finding, MonitorSettings, StreamKey
from edgetuner.drift.sensor import SensorCheck, SensorProfile, SensorSettings

__all__ = [
    "DETECTORS",
    "Calibration",
    "Cusum",
    "DriftMonitor",
    "Finding",
    "MonitorSettings",
    "Reference",
    "SensorCheck",
    "SensorProfile",
    "SensorSettings",
    "StreamKey",
    "calibrate",
]
