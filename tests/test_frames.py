"""The frames that operators send without the models agree with the models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.errors import BusyError, EdgetunerError, ProtocolError
from edgetuner.frames import MAGIC, error_from_wire, reply_of, request_frames
from edgetuner.protocol import REQUEST, Reply, Request, decode, encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_request_is_that_of_the_protocol(params: dict[str, Any]) -> None:
    frames = request_frames("7-1", "models.show", params)
    request, payload = decode(frames, REQUEST)
    assert request == Request(id="7-1", method="models.show", params=params)
    assert payload == b""


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_reply_is_that_of_the_protocol(result: dict[str, Any]) -> None:
    reply = reply_of(encode(Reply(id="7-1", result=result)))
    assert (reply["id"], reply.get("error")) == ("7-1", None)
    assert reply["result"].keys() == result.keys()


@pytest.mark.parametrize("params", [{"x": object()}, {"x": float("nan")}, {"x": {1, 2}}])
def test_what_is_no_json_is_not_sent(params: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        request_frames("7-1", "status", params)
    assert caught.value.field == "params"


@pytest.mark.parametrize(
    "frames",
    [
        [MAGIC],
        [b"EDT9", b"{}"],
        [MAGIC, b"not json"],
        [MAGIC, b"[]"],
        [MAGIC, b'{"type": "status"}'],
        [MAGIC, b'{"type": "reply", "result": 5}'],
        [MAGIC, b'{"type": "reply", "error": "x"}'],
        [MAGIC, b" " * (1 << 20) + b"{}"],
    ],
)
def test_what_is_no_reply_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        reply_of(frames)


def test_an_error_comes_back_as_it_was() -> None:
    error = BusyError(
        "under way", field="adapt", value="training", remedy="wait", details={"since": 3}
    )
    told = error_from_wire(error.to_wire())
    assert type(told) is BusyError
    assert str(told) == str(error)
    assert told.to_wire() == error.to_wire()
    assert type(error_from_wire({"code": "new one", "message": "m"})) is EdgetunerError
