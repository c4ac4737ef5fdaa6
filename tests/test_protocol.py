"""Frames that come back as they were, and frames that must not be believed."""

from __future__ import annotations

import contextlib
import json
import runpy
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter

from edgetuner import errors, protocol
from edgetuner.errors import EdgetunerError, ProtocolError, SequenceError, WindowError
from edgetuner.protocol import (
    FROM_SENSOR,
    MAGIC,
    REPLY,
    REQUEST,
    STATUS,
    TO_SENSOR,
    Ack,
    Hello,
    LabelHeader,
    PredictionHeader,
    Refusal,
    Reply,
    Request,
    StatusMessage,
    Welcome,
    WindowHeader,
    decode,
    decode_samples,
    encode,
    encode_window,
    error_from_wire,
)

DOCS = Path(__file__).parents[1] / "docs"
FIELDS = {"client_id": "c", "stream": "s", "seq": 3, "t_ns": 5, "hz": 50.0}


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float16]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-60_000, 60_000, width=16),
    )
)
def test_samples_come_back_bit_for_bit(x: np.ndarray) -> None:
    header, payload = decode(encode_window(FIELDS, x), FROM_SENSOR)
    assert isinstance(header, WindowHeader)
    back = decode_samples(header, payload)
    assert back.dtype == np.float32
    assert back.flags.owndata and back.flags.writeable
    np.testing.assert_array_equal(back, x.astype(np.float32))


def test_the_byte_order_on_the_wire_is_little_whatever_the_sender_has() -> None:
    x = np.arange(6, dtype=">f4").reshape(2, 3)
    _, _, payload = encode_window(FIELDS, x)
    assert payload == np.arange(6, dtype="<f4").tobytes()
    _, _, payload = encode_window(FIELDS, np.asfortranarray(x))
    assert payload == np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (Hello(client_id="c", predictions=True), FROM_SENSOR),
        (LabelHeader(client_id="c", stream="s", seq=0, label="walking"), FROM_SENSOR),
        (
            Welcome(
                boot_id="b",
                channels=["x"],
                length=9,
                hz=50,
                classes=["a"],
                model="v",
                credit=1,
                streams={"s": 4},
            ),
            TO_SENSOR,
        ),
        (
            Ack(of="label", stream="s", seq=2**63 - 2, outcome="early", durable=True, credit=0),
            TO_SENSOR,
        ),
        (Refusal(final=True, error={"code": "window"}, credit=3), TO_SENSOR),
        (
            PredictionHeader(
                client_id="c",
                stream="s",
                seq=1,
                t_ns=1,
                predicted="a",
                confidence=0.5,
                model="v",
            ),
            TO_SENSOR,
        ),
        (Request(id="1", method="status"), REQUEST),
        (Reply(id="1", result={"a": [1, None]}), REPLY),
        (StatusMessage(topic="status.state", seq=1, t=0.5, boot_id="b", data={}), STATUS),
    ],
)
def test_headers_come_back_as_they_were(message: protocol.Header, kind: TypeAdapter) -> None:  # type: ignore[type-arg]
    assert decode(encode(message), kind) == (message, b"")


@pytest.mark.parametrize(
    ("frames", "field"),
    [
        ([], "frames"),
        ([MAGIC], "frames"),
        ([MAGIC, b"{}", b"", b""], "frames"),
        ([b"EDT2", b"{}"], "magic"),
        ([b"", b"{}"], "magic"),
        ([MAGIC, b""], "header"),
        ([MAGIC, b"\xff"], "header"),
        ([MAGIC, b"[]"], "header"),
        ([MAGIC, b"{}"], "header"),
        ([MAGIC, b'{"type":"run"}'], "header"),
        ([MAGIC, b"[" * 5_000], "header"),
        ([MAGIC, b" " * 8193], "header"),
        ([MAGIC, b'{"type":"hello","client_id":"c"}', b"x" * (4 * 2**20 + 1)], "payload"),
        ([MAGIC, b'{"type":"hello"}'], "client_id"),
        ([MAGIC, b'{"v":2,"type":"hello","client_id":"c"}'], "v"),
        ([MAGIC, b'{"type":"hello","client_id":"../x"}'], "client_id"),
        ([MAGIC, b'{"type":"hello","client_id":7}'], "client_id"),
        ([MAGIC, b'{"type":"label","client_id":"c","stream":"s","seq":-1,"label":"a"}'], "seq"),
        ([MAGIC, b'{"type":"label","client_id":"c","stream":"s","seq":1.5,"label":"a"}'], "seq"),
        ([MAGIC, b'{"type":"label","client_id":"c","stream":"s","seq":1,"label":""}'], "label"),
    ],
)
def test_what_is_not_of_the_protocol_is_refused_by_its_field(
    frames: list[bytes], field: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(frames, FROM_SENSOR)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=64))
def test_no_header_raises_anything_else(header: bytes) -> None:
    for kind in (FROM_SENSOR, TO_SENSOR, REQUEST, REPLY, STATUS):
        with contextlib.suppress(ProtocolError):
            decode([MAGIC, header], kind)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hz": 0}, "hz"),
        ({"hz": "50"}, "hz"),
        ({"dtype": "float64"}, "dtype"),
        ({"shape": [2]}, "shape"),
        ({"shape": [2, "3"]}, "shape.1"),
        ({"crc32": 2**32}, "crc32"),
        ({"t_ns": 2**63}, "t_ns"),
        ({"label": 3}, "label"),
    ],
)
def test_each_field_of_a_window_is_checked(change: dict[str, object], field: str) -> None:
    good = json.loads(encode_window(FIELDS, np.zeros((2, 3)))[1])
    with pytest.raises(ProtocolError) as caught:
        decode([MAGIC, json.dumps(good | change).encode()], FROM_SENSOR)
    assert caught.value.field == field


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999"])
def test_a_rate_is_a_finite_number(number: str) -> None:
    text = encode_window(FIELDS, np.zeros((2, 3)))[1].replace(b"50.0", number.encode())
    with pytest.raises(ProtocolError, match="hz"):
        decode([MAGIC, text], FROM_SENSOR)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": [2, 4]}, "shape"),
        ({"shape": [0, 3]}, "shape"),
        ({"shape": [-2, -3]}, "shape"),
        ({"shape": [2**40, 2**40]}, "shape"),
        ({"dtype": "float16"}, "shape"),
        ({"crc32": 0}, "crc32"),
    ],
)
def test_a_payload_that_does_not_fit_its_header(change: dict[str, object], field: str) -> None:
    header, payload = decode(encode_window(FIELDS, np.ones((2, 3), np.float32)), FROM_SENSOR)
    assert isinstance(header, WindowHeader)
    with pytest.raises(WindowError) as caught:
        decode_samples(header.model_copy(update=change), payload)
    assert caught.value.field == field


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_sample_must_be_finite(bad: float, dtype: type) -> None:
    x = np.zeros((2, 3), dtype)
    x[1, 2] = bad
    header, payload = decode(encode_window(FIELDS, x), FROM_SENSOR)
    assert isinstance(header, WindowHeader)
    with pytest.raises(WindowError, match="1 of 6 samples"):
        decode_samples(header, payload)


def test_a_window_that_is_too_large_is_not_encoded() -> None:
    with pytest.raises(WindowError, match="at most 4194304 bytes"):
        encode_window(FIELDS, np.zeros((1, 2**20 + 1), np.float32))


def test_newer_sensors_may_say_more_and_operators_may_not() -> None:
    decode([MAGIC, b'{"type":"hello","client_id":"c","battery":0.5}'], FROM_SENSOR)
    with pytest.raises(ProtocolError, match="force"):
        decode([MAGIC, b'{"id":"1","method":"adapt","force":true}'], REQUEST)


def test_answers_may_be_longer_than_what_comes_from_outside() -> None:
    message = StatusMessage(topic="t", seq=0, t=0, boot_id="b", data={"x": "y" * 10_000})
    assert decode(encode(message), STATUS)[0] == message


def _every_error() -> list[type[EdgetunerError]]:
    return [EdgetunerError, *EdgetunerError.__subclasses__()]


@pytest.mark.parametrize("kind", _every_error(), ids=lambda kind: kind.code)
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"field": "seq", "value": 7, "remedy": "go on", "details": {"expected": 3}},
        {"field": "x", "value": "long " * 99},
        {"remedy": "try"},
    ],
)
def test_an_error_is_the_same_on_the_other_side(
    kind: type[EdgetunerError], facts: dict[str, object]
) -> None:
    error = kind("something is wrong", **facts)  # type: ignore[arg-type]
    back = error_from_wire(json.loads(json.dumps(error.to_wire())))
    assert type(back) is kind
    assert str(back) == str(error)
    assert (back.field, back.remedy, back.details) == (error.field, error.remedy, error.details)


def test_an_error_of_a_newer_service_is_still_an_error() -> None:
    assert str(error_from_wire({"code": "?", "message": "m"})) == "m"
    assert isinstance(error_from_wire({}), EdgetunerError)


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in _every_error()]
    assert len(set(codes)) == len(codes)
    assert SequenceError.code == "sequence"


# ------------------------------------------------------------------ what is published about it


def test_the_published_schemas_are_current() -> None:
    published = {path.stem: json.loads(path.read_text()) for path in DOCS.glob("schema/*.json")}
    assert published == protocol.schemas(), "run `python tools/make_schema.py`"


def test_the_document_names_every_field_and_every_error_code() -> None:
    text = (DOCS / "protocol.md").read_text()
    for name, schema in protocol.schemas().items():
        section = text.split(f"\n### `{name}`")[1].split("\n### ")[0].split("\n## ")[0]
        missing = [
            f for f in schema["properties"] if f not in ("v", "type") and f"`{f}`" not in section
        ]
        assert not missing, f"{name} in docs/protocol.md"
    codes = text.split("\n## Errors")[1].split("\n## ")[0]
    missing = [kind.code for kind in _every_error() if f"`{kind.code}`" not in codes]
    assert not missing
    assert errors.EdgetunerError.code == "internal"


@pytest.mark.parametrize("path", sorted(DOCS.glob("vectors/*.json")), ids=lambda path: path.stem)
def test_the_vectors_are_what_they_say(path: Path) -> None:
    vector = json.loads(path.read_text())
    frames = [path.with_name(name).read_bytes() for name in vector["frames"]]
    kind = {
        "sensor": FROM_SENSOR,
        "service": TO_SENSOR,
        "operator": REQUEST,
        "control": REPLY,
        "status": STATUS,
    }[vector["from"]]
    if vector["from"] == "status":
        assert frames.pop(0).decode() == vector["header"]["topic"]
    if "error" in vector:
        with pytest.raises(EdgetunerError) as caught:
            header, payload = decode(frames, kind)
            decode_samples(header, payload)
        assert caught.value.code == vector["error"]["code"]
        assert caught.value.field == vector["error"]["field"]
        return
    header, payload = decode(frames, kind)
    assert json.loads(header.model_dump_json(exclude_none=True)) == vector["header"]
    if "samples" in vector:
        assert zlib.crc32(payload) == vector["header"]["crc32"]
        np.testing.assert_array_equal(
            decode_samples(header, payload), np.array(vector["samples"], np.float32)
        )


def test_the_vectors_cover_every_message_and_are_what_their_script_makes(tmp_path: Path) -> None:
    root = DOCS.parent
    script = root / "tools" / "make_vectors.py"
    runpy.run_path(str(script))["main"](tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (DOCS / "vectors").iterdir()}
    assert made == kept, "run `python tools/make_vectors.py`"
    types = {json.loads(v)["header"]["type"] for n, v in made.items() if n.endswith(".json")}
    assert types == set(protocol.schemas())


def test_a_call_of_an_operator_loads_neither_numpy_nor_asyncio_nor_torch() -> None:
    code = "import edgetuner.client.operator, sys; print([m for m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "'zmq'" in loaded
    for module in ("numpy", "asyncio", "torch", "pydantic", "zmq.auth"):
        assert f"'{module}'" not in loaded
