"""Writes docs/vectors/: messages as bytes, and what they mean.

Run: python tools/make_vectors.py [FOLDER]. Each `NAME.json` lists its frames in order, which are
`NAME.0.bin`, `NAME.1.bin` and so on, with the meaning beside them. The inputs are fixed: the
files change only with the protocol.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgetuner.errors import WindowError
from edgetuner.protocol import (
    MAGIC,
    Ack,
    Header,
    Hello,
    LabelHeader,
    PredictionHeader,
    Refusal,
    Reply,
    Request,
    StatusMessage,
    Welcome,
    encode,
    encode_window,
)

FOLDER = Path(__file__).parents[1] / "docs" / "vectors"
X = np.array([[0.0, 0.5, -1.25, 9.80665], [1.0, -0.0, 65504.0, 0.1]], np.float32)
WINDOW = {
    "client_id": "watch-7",
    "stream": "wrist",
    "seq": 41,
    "t_ns": 1_700_000_000_123_456_789,
    "hz": 50.0,
}
REFUSAL = WindowError(
    "a sample is not finite",
    field="payload",
    value="3 of 8 samples",
    remedy="drop or repair the window before sending it",
)
HEADERS: dict[str, tuple[str, Header]] = {
    "hello": ("sensor", Hello(client_id="watch-7", predictions=True)),
    "label": (
        "sensor",
        LabelHeader(client_id="watch-7", stream="wrist", seq=41, label="gehen → laufen"),
    ),
    "welcome": (
        "service",
        Welcome(
            boot_id="0f9c",
            channels=["acc_x", "acc_y"],
            length=4,
            hz=50.0,
            classes=["rest", "walk"],
            model="v0001-3f2a",
            credit=64,
            streams={"wrist": 40},
        ),
    ),
    "ack": (
        "service",
        Ack(of="window", stream="wrist", seq=41, outcome="stored", durable=True, credit=64),
    ),
    "refusal_final": (
        "service",
        Refusal(
            of="window", stream="wrist", seq=41, final=True, error=REFUSAL.to_wire(), credit=64
        ),
    ),
    "refusal_expected": (
        "service",
        Refusal(
            of="window",
            stream="wrist",
            seq=43,
            final=False,
            expected=41,
            error={"code": "sequence", "message": "seq: windows are missing before this one"},
            credit=64,
        ),
    ),
    "prediction": (
        "service",
        PredictionHeader(
            client_id="watch-7",
            stream="wrist",
            seq=41,
            t_ns=1_700_000_000_123_456_789,
            predicted="walk",
            confidence=0.875,
            model="v0001-3f2a",
        ),
    ),
    "request": ("operator", Request(id="1", method="models.show", params={"version": "champion"})),
    "reply": ("control", Reply(id="1", result={"version": "v0001-3f2a"})),
    "reply_error": (
        "control",
        Reply(id="1", error={"code": "registry", "message": "version: no such version"}),
    ),
    "status": (
        "status",
        StatusMessage(
            topic="status.state",
            seq=7,
            t=1_700_000_000.5,
            boot_id="0f9c",
            data={"state": "watching"},
        ),
    ),
}


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (sender, header) in HEADERS.items():
        frames = encode(header)
        if isinstance(header, StatusMessage):
            frames = [header.topic.encode(), *frames]
        write(folder, name, sender, frames)
    for dtype in ("float32", "float16"):
        frames = encode_window(WINDOW | {"label": "walk"}, X.astype(dtype))
        samples = X.astype(dtype).astype(float).tolist()
        write(folder, f"window_{dtype}", "sensor", frames, samples=samples)
    write_bad(folder)


def write_bad(folder: Path) -> None:
    """Messages that the service refuses, and why."""
    good = encode_window(WINDOW, X)
    bad_payload = good[2][:-1] + bytes([good[2][-1] ^ 1])
    refusals = {
        "bad_magic": ([b"EDT0", *good[1:]], "protocol", "magic"),
        "bad_name": (
            [MAGIC, good[1].replace(b'"wrist"', b'"my wrist"'), good[2]],
            "protocol",
            "stream",
        ),
        "bad_crc32": ([*good[:2], bad_payload], "window", "crc32"),
        "bad_length": ([*good[:2], good[2][:-4]], "window", "shape"),
        "bad_nan": (encode_window(WINDOW, np.where(X == 1, np.nan, X)), "window", "payload"),
    }
    for name, (frames, code, field) in refusals.items():
        write(folder, name, "sensor", frames, error={"code": code, "field": field})


def write(folder: Path, name: str, sender: str, frames: list[bytes], **meaning: Any) -> None:
    files = [f"{name}.{index}.bin" for index in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        (folder / file).write_bytes(frame)
    header = json.loads(frames[2 if sender == "status" else 1])
    vector = {"from": sender, "frames": files, "header": header, **meaning}
    (folder / f"{name}.json").write_text(json.dumps(vector, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
