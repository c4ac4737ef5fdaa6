"""Every error that edgetuner raises on purpose: one flat tree.

An error names the field, the value it had, and what to do about it. `code` is what a client on the
wire can switch on; `exit_code` is what the command line returns (sysexits.h). Foreign exceptions
are translated at the boundary where they occur, so nothing outside this tree is an expected
outcome.
"""

from __future__ import annotations

from typing import Any, ClassVar

_MAX_VALUE_CHARS = 120


class EdgetunerError(Exception):
    """Base of the tree.

    Args:
        problem: what is wrong, in a few words, without a full stop.
        field: the dotted name of the offending field, option, file or socket.
        value: what it was; shortened in the message.
        remedy: what the reader can do about it.
        details: further JSON-compatible facts for the wire, such as the sequence number expected.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(
        self,
        problem: str,
        *,
        field: str | None = None,
        value: Any = None,
        remedy: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        self.problem = problem
        self.field = field
        self.value = value
        self.remedy = remedy
        self.details = details or {}
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.field}: {self.problem}" if self.field else self.problem
        if self.value is not None:
            text += f" (got {_shorten(self.value)})"
        return f"{text}; {self.remedy}" if self.remedy else text

    def to_wire(self) -> dict[str, Any]:
        """The error as JSON-compatible values: `code`, `message`, and what is known of the rest."""
        wire: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.field is not None:
            wire["field"] = self.field
        if self.value is not None:
            wire["value"] = _shorten(self.value)
        if self.remedy is not None:
            wire["remedy"] = self.remedy
        return wire | self.details


class ConfigError(EdgetunerError):
    """A configuration that cannot be used."""

    code, exit_code = "config", 78


class UsageError(EdgetunerError):
    """A command line, or a call of the library, that makes no sense."""

    code, exit_code = "usage", 64


class DataError(EdgetunerError):
    """A recording or a window set that cannot be read or does not fit."""

    code, exit_code = "data", 65


class BundleError(EdgetunerError):
    """A bundle that is missing, tampered with, or does not fit the model."""

    code, exit_code = "bundle", 65


class RegistryError(EdgetunerError):
    """A model version that does not exist or may not be moved."""

    code, exit_code = "registry", 65


class ProtocolError(EdgetunerError):
    """A message that does not follow the protocol: magic, header, type, length."""

    code, exit_code = "protocol", 76


class WindowError(EdgetunerError):
    """A well-formed window that the service refuses: shape, dtype, NaN, rate, range."""

    code, exit_code = "window", 65


class LabelError(EdgetunerError):
    """A label for an unknown class or for a window that was never sent."""

    code, exit_code = "label", 65


class SequenceError(EdgetunerError):
    """A window out of its turn; `details["expected"]` is the sequence number to go on with."""

    code, exit_code = "sequence", 65


class BusyError(EdgetunerError):
    """The service has no room at present: too many streams, no credit, an adaptation under way."""

    code, exit_code = "busy", 75


class StoreError(EdgetunerError):
    """The window store cannot write or read: full disk, damaged file, wrong schema."""

    code, exit_code = "store", 74


class TransportError(EdgetunerError):
    """A socket that cannot be bound, connected or secured."""

    code, exit_code = "transport", 69


class UnavailableError(EdgetunerError):
    """Nobody answers: the service is not running, or not at this address."""

    code, exit_code = "unavailable", 69


class AccessError(EdgetunerError):
    """A key file with loose permissions, or a caller without the right to do this."""

    code, exit_code = "permission", 77


class ModelError(EdgetunerError):
    """A module that cannot be built, loaded or adapted, and will not be if one tries again."""

    code, exit_code = "model", 65


class DeviceError(EdgetunerError):
    """What a module runs on fails; it may be there again after a restart."""

    code, exit_code = "device", 70


class AdaptationError(EdgetunerError):
    """An adaptation that ended without a candidate; the champion is untouched."""

    code, exit_code = "adaptation", 70


class BudgetError(EdgetunerError):
    """Work that does not fit the memory, time or energy it was given."""

    code, exit_code = "budget", 75


class DriftError(EdgetunerError):
    """A drift reference that cannot be calibrated or does not fit the embeddings."""

    code, exit_code = "drift", 65


class TelemetryError(EdgetunerError):
    """A telemetry source that is not available on this machine."""

    code, exit_code = "telemetry", 69


def unexpected(error: Exception) -> EdgetunerError:
    """An error from outside this tree where it must not end more than what was asked for: its kind,
    its words, and where it came from.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = None if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return EdgetunerError(
        "failed in a way that nobody foresaw",
        field=place,
        value=f"{type(error).__name__}: {error}",
        remedy="report it, with this line",
    )


def missing_torch() -> UnavailableError:
    """What to tell whoever needs torch and has none."""
    return UnavailableError(
        "is not installed, and is needed here",
        field="torch",
        remedy="on a Jetson install NVIDIA's build, elsewhere: pip install 'edgetuner[torch]'",
    )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARS else text[: _MAX_VALUE_CHARS - 1] + "…"
