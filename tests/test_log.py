from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.log import LEVELS, Log, readable


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.event("event.swap", {"version": "a-1", "gate": {"windows": 9}})
    log.event("event.drift", {"why": "a\nb"})
    swap, drift = map(json.loads, capsys.readouterr().out.splitlines())
    assert swap.pop("t") > 1.7e9
    assert swap == {"level": "info", "event": "swap", "version": "a-1", "gate": {"windows": 9}}
    assert (drift["level"], drift["why"]) == ("warning", "a\nb")


def test_text_is_one_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Log(style="text").event("event.deferred", {"reason": "few\nlabels", "p": 0.123456})
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line[8:] == " info    deferred             reason='few\\nlabels' p=0.1235\n"


@pytest.mark.parametrize("least", LEVELS)
def test_less_than_the_level_is_not_written(least: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(least, "json")
    for topic in ("event.swap", "event.rollback", "event.reload_refused"):  # info, warning, error
        log.event(topic, {})
    shown = [json.loads(line)["level"] for line in capsys.readouterr().out.splitlines()]
    assert shown == [level for level in LEVELS[1:] if LEVELS.index(level) >= LEVELS.index(least)]


def test_a_reader_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    # Unbuffered below the text: nothing is left to be written when it is closed.
    with io.TextIOWrapper(io.FileIO(write, "w"), write_through=True) as deaf:
        with pytest.raises(BrokenPipeError):
            deaf.write("somebody there?")
        monkeypatch.setattr(sys, "stdout", deaf)
        Log().event("event.swap", {})


def test_readable_joins_nested_keys() -> None:
    data: dict[str, Any] = {"a": {"b": {"c": 1}, "none": {}}, "d": 123456.789, "e": None, "f": [1]}
    assert readable(data) == "a.b.c=1 d=1.235e+05 e=None f=[1]"


@given(st.dictionaries(st.text(st.characters(categories=["L"]), min_size=1), st.text()))
def test_readable_is_one_printable_line(data: dict[str, str]) -> None:
    line = readable(data)
    assert line.isprintable()
    assert all(f"{key}=" in line for key in data)
