"""What one check found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgetuner.errors import EdgetunerError

State = Literal["ok", "note", "trouble"]


@dataclass(frozen=True)
class Diagnosis:
    """One line of `edgetuner doctor`.

    Attributes:
        check: what was looked at.
        state: ok; note: it works, though less well than it could; trouble: it does not.
        said: what was seen.
        facts: the same for machines; what was not measured has no key.
        error: what is the trouble, or the reason for a note.
    """

    check: str
    state: State
    said: str
    facts: dict[str, Any] = field(default_factory=dict)
    error: EdgetunerError | None = None

    @classmethod
    def of(
        cls, check: str, error: EdgetunerError, facts: Mapping[str, Any] | None = None
    ) -> Diagnosis:
        """An error as the trouble that a check found, and what was measured on the way."""
        return cls(check, "trouble", str(error), dict(facts or {}), error)

    def to_wire(self) -> dict[str, Any]:
        """JSON-compatible values."""
        wire: dict[str, Any] = {"check": self.check, "state": self.state, "said": self.said}
        if self.facts:
            wire["facts"] = self.facts
        return wire if self.error is None else wire | {"error": self.error.to_wire()}
