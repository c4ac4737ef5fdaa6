from __future__ import annotations

import inspect
import json
import os

import pytest

from edgetuner import errors
from edgetuner.errors import EdgetunerError, SequenceError, WindowError

TREE: list[type[EdgetunerError]] = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, EdgetunerError)
]
SYSEXITS = {value for name, value in vars(os).items() if name.startswith("EX_") and value >= 64}


def test_the_tree_is_flat() -> None:
    assert EdgetunerError in TREE
    assert all(kind.__base__ is EdgetunerError for kind in TREE if kind is not EdgetunerError)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_a_kind_says_what_it_is(kind: type[EdgetunerError]) -> None:
    assert kind.__doc__ and kind.__doc__.strip().endswith(".")
    assert kind.code.isidentifier() and kind.code == kind.code.lower()
    assert kind.exit_code in SYSEXITS


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in TREE]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({}, "too long"),
        ({"field": "shape"}, "shape: too long"),
        ({"value": 3}, "too long (got 3)"),
        ({"value": 0}, "too long (got 0)"),
        ({"value": "x y"}, "too long (got 'x y')"),
        ({"remedy": "send less"}, "too long; send less"),
        (
            {"field": "shape", "value": [6, 9], "remedy": "send [6, 8]"},
            "shape: too long (got [6, 9]); send [6, 8]",
        ),
    ],
)
def test_the_message_has_all_that_is_known(known: dict[str, object], text: str) -> None:
    error = WindowError("too long", **known)  # type: ignore[arg-type]
    assert str(error) == text
    assert error.args == (text,)


def test_a_long_value_is_shortened() -> None:
    error = WindowError("too long", value="x" * 1000)
    assert len(str(error)) < 150
    assert str(error).endswith("…)")


def test_a_line_break_in_a_value_does_not_break_the_line() -> None:
    assert "\n" not in str(WindowError("odd", field="label", value="a\nb\x1b[2J"))


def test_to_wire_is_json_and_leaves_out_what_is_not_known() -> None:
    assert EdgetunerError("broke").to_wire() == {"code": "internal", "message": "broke"}
    error = SequenceError(
        "out of turn",
        field="seq",
        value=object(),
        remedy="go on from 7",
        details={"expected": 7},
    )
    wire = json.loads(json.dumps(error.to_wire()))
    assert wire["code"] == "sequence"
    assert wire["field"] == "seq"
    assert wire["value"].startswith("<object")
    assert wire["remedy"] == "go on from 7"
    assert wire["expected"] == 7
    assert wire["message"] == str(error)
