"""A recording of a board: a JSON list of samples in their wire form, played in a loop."""

from __future__ import annotations

import bisect
import itertools
import json
from pathlib import Path

from pydantic import ValidationError

from edgetuner.errors import TelemetryError
from edgetuner.telemetry.sample import SIMULATED, Sample

_FIELD = "telemetry.trace"
_REMEDY = "a trace is a JSON list of samples as the status topic shows them, in order of t"


class Trace:
    """Samples by the seconds since the first one; each holds until the next."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples
        self._offsets_s = [sample.monotonic_s for sample in samples]

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read a recording; every sample is marked simulated, whatever recorded it.

        Raises:
            TelemetryError: the file cannot be read, or an entry is not a sample.
        """
        rows = _rows(path)
        samples = [_sample(row, number, rows[0], path) for number, row in enumerate(rows)]
        offsets = [sample.monotonic_s for sample in samples]
        if any(later <= earlier for earlier, later in itertools.pairwise(offsets)):
            raise TelemetryError("t does not increase", field=_FIELD, value=path, remedy=_REMEDY)
        return cls(samples)

    def at(self, elapsed_s: float) -> Sample:
        """The sample in force `elapsed_s` after the start."""
        last_s = self._offsets_s[-1]
        # The last sample holds for as long as the mean of the others before the loop begins anew.
        period_s = last_s * len(self._samples) / (len(self._samples) - 1) if last_s > 0 else 1.0
        return self._samples[bisect.bisect_right(self._offsets_s, elapsed_s % period_s) - 1]


def _rows(path: Path) -> list[dict[str, object]]:
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise TelemetryError(
            f"cannot be read: {error.strerror}", field=_FIELD, value=str(path), remedy=_REMEDY
        ) from error
    except ValueError as error:
        raise TelemetryError(
            f"is not JSON: {error}", field=_FIELD, value=str(path), remedy=_REMEDY
        ) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise TelemetryError(
            "is not a list of objects", field=_FIELD, value=str(path), remedy=_REMEDY
        )
    return rows


def _sample(row: dict[str, object], number: int, first: dict[str, object], path: Path) -> Sample:
    t, start = row.get("t"), first.get("t")
    if not isinstance(t, int | float) or not isinstance(start, int | float):
        raise TelemetryError(
            "no number", field=f"{_FIELD}[{number}].t", value=str(path), remedy=_REMEDY
        )
    try:
        return Sample.model_validate(row | {"source": SIMULATED, "monotonic_s": t - start})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise TelemetryError(
            fault["msg"],
            field=f"{_FIELD}[{number}].{where}",
            value=fault["input"],
            remedy=_REMEDY,
        ) from error
