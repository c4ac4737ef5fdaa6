from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from edgetuner.adapt.flow import Flow


def test_labels_keep_coming_until_nobody_has_said_anything_for_five_minutes() -> None:
    pipeline: Any = SimpleNamespace(hears_labels=True)
    now = [1000.0]
    flow = Flow(pipeline, lambda: now[0])
    assert not flow.goes_on, "nobody has labelled yet"
    for _ in range(3):
        flow.came()
        now[0] += 299
        assert flow.goes_on
    now[0] += 1
    assert not flow.goes_on
    flow.came()
    assert flow.goes_on, "and again"


def test_where_labels_do_not_answer_they_are_no_flow() -> None:
    pipeline: Any = SimpleNamespace(hears_labels=False)
    flow = Flow(pipeline, lambda: 0.0)
    flow.came()
    assert not flow.goes_on
