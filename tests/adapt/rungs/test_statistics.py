from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner.adapt.ladder import held_f1  # noqa: E402
from edgetuner.adapt.material import Material  # noqa: E402
from edgetuner.adapt.rungs.head import with_head  # noqa: E402
from edgetuner.adapt.rungs.reached import Reached  # noqa: E402
from edgetuner.adapt.rungs.statistics import statistics  # noqa: E402
from edgetuner.errors import DataError  # noqa: E402
from edgetuner.peft.statistics import reestimate  # noqa: E402
from tests.adapt.material import QUICK  # noqa: E402


def silent(rung: str, **facts: Any) -> None:
    pass


def test_it_takes_the_statistics_of_the_windows_and_solves_a_head_on_them(
    base: nn.Module, material: Material
) -> None:
    before = {key: value.clone() for key, value in base.state_dict().items()}
    reached = statistics(Reached(base), material, QUICK, silent)
    after = reached.module.state_dict()
    buffers = reestimate(base, [material.unlabelled])
    assert buffers
    for key, value in before.items():
        assert torch.equal(base.state_dict()[key], value), "the champion stays"
        if key in buffers:
            torch.testing.assert_close(after[key], buffers[key])
            assert not torch.equal(after[key], value)
        elif not key.startswith("head."):
            assert torch.equal(after[key], value)
    again = with_head(reached.module, material, QUICK)
    for key in ("head.weight", "head.bias"):
        torch.testing.assert_close(after[key], again.module.state_dict()[key])
    assert reached.facts["windows"] == len(material.unlabelled)
    assert reached.facts["buffers"] == sum(value.numel() for value in buffers.values()) == 80
    assert reached.facts["trained"] == 3 * 17, "no weight but those of the head"


def test_of_turned_windows_new_statistics_are_most_of_the_way(
    base: nn.Module, material: Material
) -> None:
    reached = statistics(Reached(base), material, QUICK, silent)
    alone = with_head(base, material, QUICK)
    assert held_f1(reached.module, material) == 1.0
    assert reached.left_out is not None and alone.left_out is not None
    assert reached.left_out.lead(alone.left_out) > 3


def test_many_windows_are_read_from_the_whole_context(base: nn.Module, material: Material) -> None:
    """Half the context is scaled: read from its start alone, the statistics would be off."""
    calm = material.unlabelled.repeat(30, 1, 1)
    both = torch.cat([calm, 3 * calm])
    reached = statistics(Reached(base), replace(material, unlabelled=both), QUICK, silent)
    assert reached.facts["windows"] == 512 < len(both)
    first = "features.norm1.running_var"
    whole = reestimate(base, [both])[first]
    torch.testing.assert_close(reached.module.state_dict()[first], whole, rtol=0.05, atol=0)
    start = reestimate(base, [both[:512]])[first]
    assert not torch.allclose(start, whole, rtol=0.5, atol=0)


def test_a_model_without_batch_norm_gets_a_head_and_no_statistics(material: Material) -> None:
    base = nn.Sequential()
    base.conv = nn.Conv1d(3, 8, 3)
    base.flat = nn.Flatten()
    base.head = nn.Linear(8 * 30, 3)
    reached = statistics(Reached(base.eval()), material, QUICK, silent)
    assert reached.facts["buffers"] == 0
    assert reached.facts["trained"] == 3 * (len(material.y) + 1), "no more directions than windows"


def test_windows_that_are_not_finite_are_refused_by_the_buffer(
    base: nn.Module, material: Material
) -> None:
    x = material.unlabelled.clone()
    x[0, 0, 0] = float("nan")
    with pytest.raises(DataError, match=r"norm1\.running_mean: statistics are not finite"):
        statistics(Reached(base), replace(material, unlabelled=x), QUICK, silent)
