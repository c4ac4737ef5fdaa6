"""The frames of a message, and errors on the wire: all that an operator's call needs.

Apart from `protocol`, because the models of the headers cost more than all the rest of
`edgetuner status` together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from edgetuner.errors import EdgetunerError, ProtocolError

VERSION: Final = 1
MAGIC: Final = b"EDT1"
MAX_HEADER_BYTES: Final = 8192
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024


def split(frames: Sequence[bytes], most_header_bytes: int) -> tuple[bytes, bytes]:
    """The header and the payload (empty where there is none) of a message, not yet interpreted.

    Raises:
        ProtocolError: wrong number of frames, magic or size.
    """
    if not 2 <= len(frames) <= 3:
        raise ProtocolError(
            "a message has two or three frames",
            field="frames",
            value=len(frames),
            remedy="send [magic, header, payload?] as one multipart message",
        )
    if frames[0] != MAGIC:
        raise ProtocolError(
            "not a message of this protocol",
            field="magic",
            value=bytes(frames[0][:8]),
            remedy=f"start every message with {MAGIC!r}",
        )
    header, payload = frames[1], frames[2] if len(frames) == 3 else b""
    for field, size, most in (
        ("header", len(header), most_header_bytes),
        ("payload", len(payload), MAX_PAYLOAD_BYTES),
    ):
        if size > most:
            raise ProtocolError(
                "too large", field=field, value=size, remedy=f"at most {most} bytes"
            )
    return header, payload


def request_frames(name: str, method: str, params: dict[str, Any]) -> list[bytes]:
    """The frames of a request (`protocol.Request`). Raises ProtocolError if it is no JSON."""
    header = {"v": VERSION, "type": "request", "id": name, "method": method, "params": params}
    try:
        return [MAGIC, json.dumps(header, allow_nan=False).encode()]
    except (TypeError, ValueError) as error:
        raise ProtocolError(
            "cannot be sent", field="params", value=str(error), remedy="use plain JSON values"
        ) from None


def reply_of(frames: Sequence[bytes]) -> dict[str, Any]:
    """The header of a reply (`protocol.Reply`).

    Raises:
        ProtocolError: no such message.
    """
    header, _ = split(frames, MAX_ANSWER_BYTES)
    try:
        reply = json.loads(header)
    except ValueError:
        reply = None
    if (
        not isinstance(reply, dict)
        or reply.get("type") != "reply"
        or not isinstance(reply.get("result"), dict | None)
        or not isinstance(reply.get("error"), dict | None)
    ):
        raise ProtocolError(
            "not a reply of this protocol",
            field="header",
            value=bytes(header[:80]),
            remedy="see that the address is that of the control socket",
        )
    return reply


def error_from_wire(wire: dict[str, Any]) -> EdgetunerError:
    """The error that `to_wire` on the other side told of: of the same class, the same text."""
    rest = dict(wire)
    code, message = rest.pop("code", None), str(rest.pop("message", "no reason given"))
    field, value, remedy = (rest.pop(name, None) for name in ("field", "value", "remedy"))
    kinds = {kind.code: kind for kind in EdgetunerError.__subclasses__()}
    # `message` is the whole sentence; taken apart, the error prints as it did on the other side.
    problem = message.removeprefix(f"{field}: ").removesuffix(f"; {remedy}")
    return kinds.get(code, EdgetunerError)(
        problem.removesuffix(f" (got {value})"),
        field=field,
        value=None if value is None else _Told(value),
        remedy=remedy,
        details=rest,
    )


class _Told(str):
    """A value as the other side wrote it, which must not be quoted a second time."""

    __slots__ = ()
    __repr__ = str.__str__
