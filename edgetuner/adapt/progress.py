"""What a training says of itself, rung by rung, and the energy that was read while each ran."""

from __future__ import annotations

from typing import Any

from edgetuner.telemetry import Telemetry

# Of a rung, for operators; the job folder has all of it.
_EVIDENCE = (
    *("rung", "seconds", "energy_j", "taken", "held_f1", "loo_error"),
    *("trained_fraction", "source_share", "guessed"),
)


class Progress:
    """Of the training under way, or else of the last one.

    Args:
        telemetry: gives the energy.

    Attributes:
        now: what it said last; empty where nothing is under way.
        rungs: those that are over, with their evidence.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._begun_j = self._rung_j = 0.0
        self.now: dict[str, Any] = {}
        self.rungs: list[dict[str, Any]] = []

    def begin(self) -> None:
        """A training begins."""
        self._begun_j = self._rung_j = self._read_j()
        self.rungs = []

    def take(self, said: dict[str, Any]) -> None:
        """A line of the training process."""
        if said.get("rung") == "cpu":  # all over again
            self.rungs.clear()
        elif "refused" in said:
            self.rungs.append({k: said[k] for k in ("rung", "refused")})
        if "seconds" in said:  # a rung is over
            said = said | self._energy_of_rung()
            self.rungs.append({k: v for k, v in said.items() if k in _EVIDENCE})
        self.now = said

    def end(self) -> float:
        """It is over; the joules that were read since it began."""
        self.now = {}
        return self._read_j() - self._begun_j

    def _energy_of_rung(self) -> dict[str, float]:
        """What was read of it; a rung that is over between two readings has none."""
        now = self._read_j()
        then, self._rung_j = self._rung_j, now
        return {} if now <= then else {"energy_j": round(now - then, 3)}

    def _read_j(self) -> float:
        return self._telemetry.energy_j().get("train", 0.0)
