"""What crosses the wire: headers, frames, and the checks on a payload.

`docs/protocol.md` tells it in prose.

A message is `[MAGIC, header, payload?]`: four bytes, a JSON object, and, for windows only, raw
little-endian samples. Nothing is unpickled, and no byte of a payload is interpreted before its
length is known to be right. Headers from sensors ignore keys they do not know (a newer client may
say more); requests refuse them.
"""

from __future__ import annotations

import json
import operator
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, SupportsIndex, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgetuner.errors import ProtocolError, WindowError
from edgetuner.frames import MAGIC as MAGIC
from edgetuner.frames import MAX_ANSWER_BYTES as MAX_ANSWER_BYTES
from edgetuner.frames import MAX_HEADER_BYTES as MAX_HEADER_BYTES
from edgetuner.frames import MAX_PAYLOAD_BYTES as MAX_PAYLOAD_BYTES
from edgetuner.frames import VERSION as VERSION
from edgetuner.frames import error_from_wire as error_from_wire
from edgetuner.frames import split

if TYPE_CHECKING:
    # At run time only the two functions that handle samples import it: `edgetuner tail` has none.
    import numpy as np

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
_DTYPES: Final = {"float32": "<f4", "float16": "<f2"}

Name = Annotated[
    str, Field(pattern=_NAME, description="1 to 64 of A-Z a-z 0-9 . _ : - , not led by a mark")
]
# The one after it has to be a number of 64 bits as well.
Seq = Annotated[int, Field(ge=0, lt=2**63 - 1, description="counts up by one within a stream")]


class Header(BaseModel):
    """What every header has: the protocol's version and the message's type."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", allow_inf_nan=False, defer_build=True
    )

    v: Literal[1] = 1


# ------------------------------------------------------------------ from a sensor to the service


class Hello(Header):
    """Introduces a client, or asks where its streams stand; answered by `Welcome`."""

    type: Literal["hello"] = "hello"
    client_id: Name
    predictions: bool = Field(
        default=False, description="send this client the predictions of its windows"
    )


class WindowHeader(Header):
    """One window; the payload holds its samples, channel by channel (C order)."""

    type: Literal["window"] = "window"
    client_id: Name
    stream: Name
    seq: Seq
    t_ns: int = Field(ge=0, lt=2**63, description="Unix time of the first sample, nanoseconds")
    hz: float = Field(gt=0, description="sampling rate, samples per second")
    dtype: Literal["float32", "float16"] = Field(description="of the payload, little-endian")
    shape: list[int] = Field(min_length=2, max_length=2, description="[channels, samples]")
    crc32: int = Field(ge=0, lt=2**32, description="CRC-32 (zlib) of the payload")
    label: str | None = Field(
        default=None, description="the class, where the client knows it already"
    )
    gap: bool = Field(
        default=False,
        description="the windows missing before this one will never come: take it all the same",
    )


class LabelHeader(Header):
    """The class of a window that was, or will be, sent: it may come before or long after it."""

    type: Literal["label"] = "label"
    client_id: Name
    stream: Name
    seq: Seq
    label: str = Field(min_length=1, max_length=200, description="the name of a class of the model")


# ------------------------------------------------------------------ from the service to a sensor


class Welcome(Header):
    """Answers `Hello`: what the model takes, and the last sequence number held of each stream."""

    type: Literal["welcome"] = "welcome"
    boot_id: str = Field(description="new with every start of the service")
    channels: list[str]
    length: int = Field(description="samples in a window")
    hz: float
    classes: list[str]
    model: str = Field(description="the version that predicts at present")
    credit: int = Field(description="how many messages may be under way without an answer")
    streams: dict[str, int] = Field(description="stream -> last sequence number held")


class Ack(Header):
    """The window or label is held, and, where `durable`, survives a crash and a loss of power."""

    type: Literal["ack"] = "ack"
    of: Literal["window", "label"]
    stream: str
    seq: int
    outcome: Literal["stored", "duplicate", "replaced", "early"]
    durable: bool
    credit: int


class Refusal(Header):
    """The message was not taken. `final`: do not send it again; else go on from `expected`, or try
    later."""

    type: Literal["refusal"] = "refusal"
    of: Literal["hello", "window", "label"] | None = None
    stream: str | None = None
    seq: int | None = None
    final: bool
    expected: int | None = Field(default=None, description="the sequence number to go on with")
    error: dict[str, Any] = Field(description="code, message, and where known field, value, remedy")
    credit: int


class PredictionHeader(Header):
    """What the live model says of one window; to clients that asked, and on the status socket."""

    type: Literal["prediction"] = "prediction"
    client_id: str
    stream: str
    seq: int
    t_ns: int
    predicted: str = Field(description="the name of the class")
    confidence: float = Field(description="probability of that class, 0 to 1")
    overruled: str | None = Field(
        default=None,
        description="what models say by themselves, where labels of windows like it say otherwise",
    )
    model: str = Field(description="the version that said so")
    again: bool = Field(default=False, description="may have been published before a crash")


# ------------------------------------------------------------------ operators


class Request(Header):
    """A call on the control socket."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["request"] = "request"
    id: str = Field(min_length=1, max_length=64, description="comes back in the reply")
    method: str = Field(min_length=1, max_length=64)
    params: dict[str, Any] = Field(default_factory=dict)


class Reply(Header):
    """Answers a `Request`: either `result` or `error` is there."""

    type: Literal["reply"] = "reply"
    id: str | None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class StatusMessage(Header):
    """One message of the status socket; `seq` counts per boot, so that a gap is seen."""

    type: Literal["status"] = "status"
    topic: str
    seq: int
    t: float = Field(description="Unix time, seconds")
    boot_id: str
    data: dict[str, Any]


FromSensor: TypeAlias = Annotated[Hello | WindowHeader | LabelHeader, Field(discriminator="type")]
ToSensor: TypeAlias = Annotated[
    Welcome | Ack | Refusal | PredictionHeader, Field(discriminator="type")
]

_TYPES: Final[dict[str, type[Header]]] = {
    model.model_fields["type"].default: model
    for model in (
        *(Hello, WindowHeader, LabelHeader, Welcome, Ack, Refusal),
        *(PredictionHeader, Request, Reply, StatusMessage),
    )
}
_LATER = ConfigDict(defer_build=True)
FROM_SENSOR: Final[TypeAdapter[Hello | WindowHeader | LabelHeader]] = TypeAdapter(
    FromSensor, config=_LATER
)
TO_SENSOR: Final[TypeAdapter[Welcome | Ack | Refusal | PredictionHeader]] = TypeAdapter(
    ToSensor, config=_LATER
)
REQUEST: Final = TypeAdapter(Request)
REPLY: Final = TypeAdapter(Reply)
STATUS: Final = TypeAdapter(StatusMessage)

_H = TypeVar("_H")
_M = TypeVar("_M", bound=Header)


def encode(header: Header, payload: bytes | None = None) -> list[bytes]:
    """The frames of a message: `[MAGIC, header]`, and the payload where there is one."""
    frames = [MAGIC, header.model_dump_json(exclude_none=True).encode()]
    return frames if payload is None else [*frames, payload]


def compose(kind: type[_M], **fields: Any) -> _M:
    """A header to be sent. Raises ProtocolError for a field that the protocol does not allow."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise _translated(error) from None


def decode(frames: Sequence[bytes], kind: TypeAdapter[_H]) -> tuple[_H, bytes]:
    """The header and the payload (empty where there is none) of a message.

    Raises:
        ProtocolError: wrong number of frames, magic, size, JSON, or a field of the header.
    """
    # What comes from outside is bounded tightly; a list of versions or a snapshot may be longer.
    outside = kind is FROM_SENSOR or kind is REQUEST
    header, payload = split(frames, MAX_HEADER_BYTES if outside else MAX_ANSWER_BYTES)
    return _parse(header, kind), payload


def whole(field: str, value: SupportsIndex) -> int:
    """A number of nanoseconds or windows. Raises ProtocolError if it is not a whole one, such as
    seconds where nanoseconds are asked for.
    """
    try:
        return operator.index(value)
    except TypeError:
        remedy = "give nanoseconds: time.time_ns()" if field == "t_ns" else "give a whole number"
        raise ProtocolError("not a whole number", field=field, value=value, remedy=remedy) from None


def window_message(x: np.ndarray, **fields: Any) -> tuple[WindowHeader, bytes]:
    """The header and the payload of a window.

    Args:
        x: samples of shape (C, T); float16 and float32 are sent as they are, all else as float32.
        fields: of the header, except `dtype`, `shape` and `crc32`.

    Raises:
        ProtocolError: a field that the protocol does not allow.
        WindowError: longer than `MAX_PAYLOAD_BYTES`.
    """
    import numpy as np

    name = x.dtype.name if x.dtype.name in _DTYPES else "float32"
    samples = np.ascontiguousarray(x, dtype=_DTYPES[name])
    if samples.nbytes > MAX_PAYLOAD_BYTES:
        raise WindowError(
            "too large",
            field="payload",
            value=samples.nbytes,
            remedy=f"at most {MAX_PAYLOAD_BYTES} bytes",
        )
    payload = samples.tobytes()
    header = compose(
        WindowHeader, dtype=name, shape=list(x.shape), crc32=zlib.crc32(payload), **fields
    )
    return header, payload


def encode_window(header_fields: dict[str, Any], x: np.ndarray) -> list[bytes]:
    """The frames of a window message; see `window_message`."""
    return encode(*window_message(x, **header_fields))


def decode_samples(header: WindowHeader, payload: bytes) -> np.ndarray:
    """The samples of a window, float32 of shape (C, T), in memory of their own.

    Raises:
        WindowError: the length does not match shape and dtype, the checksum is wrong, or a sample
            is not finite.
    """
    import numpy as np

    dtype = np.dtype(_DTYPES[header.dtype])
    channels, length = header.shape
    if channels < 1 or length < 1 or channels * length * dtype.itemsize != len(payload):
        raise WindowError(
            "the payload's length does not fit the shape",
            field="shape",
            value=f"{header.shape} of {header.dtype} for {len(payload)} bytes",
            remedy="send channels x samples x bytes per sample",
        )
    if zlib.crc32(payload) != header.crc32:
        raise WindowError(
            "the payload's checksum differs",
            field="crc32",
            value=header.crc32,
            remedy="compute CRC-32 (zlib) over the payload as sent",
        )
    samples: np.ndarray = np.frombuffer(payload, dtype).reshape(channels, length)
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise WindowError(
            "a sample is not finite",
            field="payload",
            value=f"{int((~np.isfinite(samples)).sum())} of {samples.size} samples",
            remedy="drop or repair the window before sending it",
        )
    return samples


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of every header, by message type; published under `docs/schema/`."""
    return {name: model.model_json_schema() for name, model in _TYPES.items()}


def _parse(header: bytes, kind: TypeAdapter[_H]) -> _H:
    try:
        return kind.validate_json(header)
    except ValidationError as error:
        raise _translated(error) from None


def _translated(error: ValidationError) -> ProtocolError:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    if len(path) > 1 and path[0] in _TYPES:
        # Put there by the discriminator; a client knows the field by its own name alone.
        path = path[1:]
    value = first["input"]
    return ProtocolError(
        first["msg"][0].lower() + first["msg"][1:],
        field=".".join(path) or "header",
        value=json.dumps(value, default=str) if isinstance(value, dict) else value,
        remedy="see docs/protocol.md",
    )
