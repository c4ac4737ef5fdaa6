from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.cli.output import bar, cell, complain, duration, latency, pairs, size, spoken, table
from edgetuner.errors import DataError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "-"), ({}, "-"), ([], "-"), (0, "0"), (0.0, "0"), (False, "no"), (True, "yes")),
        *((0.123456, "0.1235"), ([1, None], "1, -"), ({"a": 1, "b": None}, "a=1 b=-")),
    ],
)
def test_a_cell(value: object, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "-"), (0.2, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3725, "1 h 2 min")),
        (200000, "2 d 7 h"),
    ],
)
def test_a_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (2100, "2.1 kB"), (5e6, "5.0 MB"), (8e9, "8.0 GB")],
)
def test_a_size(count: float | None, text: str) -> None:
    assert size(count) == text


@given(st.floats(-10, 1000))
def test_a_bar_has_one_width(share: float) -> None:
    drawn, number, sign = bar(share).split()
    assert len(drawn) == 10 and set(drawn) <= {"#", "."}
    assert drawn == "".join(sorted(drawn))
    assert float(number) == pytest.approx(100 * share, abs=0.51)
    assert sign == "%"


def test_what_is_not_measured_is_not_zero() -> None:
    assert latency(None) == latency({}) == "latency not measured yet"
    assert latency({"p50": 0.0011, "p99": 0.02}) == "latency 1.1 ms, 99 % within 20 ms"
    assert latency({"p50": 0.9994, "p99": 3.15}) == "latency 999 ms, 99 % within 3.1 s"


def test_a_table_has_numbers_to_the_right() -> None:
    text = table([["a", 5, None], ["bcd", 1234, "x"]], ["name", "count", "why"])
    assert text == "name  count  why\na         5  -\nbcd    1234  x"
    assert table([], ["a", "b"]) == "a  b"


def test_pairs_leave_out_what_is_not_there() -> None:
    assert pairs([("a", "1"), ("long", None), ("bcd", "2")]) == "a    1\nbcd  2"


def test_a_metric_is_spoken() -> None:
    assert spoken("unseen_subjects_macro_f1") == "unseen subjects macro-F1"


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = DataError("bad\nnews", field="x", remedy="do\n that")
    complain(error, as_json=False)
    complain(error, as_json=True)
    plain, wire = capsys.readouterr().err.splitlines()
    assert plain == "edgetuner: x: bad news; do that"
    assert json.loads(wire)["error"]["code"] == "data"
