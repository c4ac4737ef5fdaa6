"""Absent is absent: in the object and on the wire."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgetuner.telemetry import Sample

finite = st.floats(allow_nan=False, allow_infinity=False)
samples = st.builds(
    Sample,
    source=st.sampled_from(["jtop", "sysfs", "host", "simulated"]),
    t=finite,
    monotonic_s=st.just(0.0),
    age_s=st.none() | st.floats(0, 1e6),
    power_w=st.dictionaries(st.text(), finite),
    total_power_w=st.none() | finite,
    memory_total_bytes=st.none() | st.integers(0, 2**40),
    temperature_c=st.dictionaries(st.text(), finite),
    gpu_load=st.none() | st.floats(0, 1),
    power_mode=st.none() | st.text(),
    over_current=st.none() | st.lists(st.text()).map(tuple),
)


def test_an_empty_sample_says_who_and_when_and_no_more() -> None:
    assert Sample(source="host", t=5.0, monotonic_s=1.0).to_wire() == {"source": "host", "t": 5.0}


def test_a_measured_zero_stays_and_no_alarm_differs_from_an_unknown_one() -> None:
    wire = Sample(source="sysfs", t=5.0, monotonic_s=1.0, gpu_load=0.0, over_current=()).to_wire()
    assert wire["gpu_load"] == 0.0
    assert wire["over_current"] == []


@given(samples)
def test_the_wire_form_is_json_and_loses_nothing(sample: Sample) -> None:
    wire = json.loads(json.dumps(sample.to_wire(), allow_nan=False))
    assert None not in wire.values()
    assert Sample.model_validate(wire | {"monotonic_s": 0.0}) == sample


def test_age_is_the_time_since_the_measurement() -> None:
    sample = Sample(source="host", t=5.0, monotonic_s=10.0)
    assert sample.age_s is None
    assert sample.aged(12.5).age_s == 2.5
    assert sample.aged(9.0).age_s == 0.0


@pytest.mark.parametrize(
    "bad",
    [{"total_power_w": float("nan")}, {"power_w": {"VDD_IN": float("inf")}}, {"gpu_load": 12.0}],
)
def test_what_no_instrument_measures_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate({"source": "jtop", "t": 0.0, "monotonic_s": 0.0} | bad)
