"""What the board can say about itself: power, memory, temperature, load.

Four sources stand behind one interface and are tried in the order of the configuration: `jtop`,
`sysfs`, `host`, `simulated`. What none of them measures is absent.
"""

from edgetuner.telemetry.monitor import SOURCES, Telemetry, open_telemetry
from edgetuner.telemetry.sample import Sample

__all__ = ["SOURCES", "Sample", "Telemetry", "open_telemetry"]
