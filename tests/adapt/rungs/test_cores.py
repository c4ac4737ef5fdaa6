from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgetuner.adapt.material import Material  # noqa: E402
from edgetuner.adapt.rungs.cores import adapter_of, cores  # noqa: E402
from edgetuner.adapt.rungs.head import head, head_of  # noqa: E402
from edgetuner.adapt.rungs.reached import Reached  # noqa: E402
from edgetuner.errors import BudgetError  # noqa: E402
from edgetuner.models import build  # noqa: E402
from edgetuner.peft.spending import left_for_cores, weights_of  # noqa: E402
from tests.adapt.material import QUICK  # noqa: E402

BRIEF = QUICK.model_copy(update={"steps": 3})


def silent(rung: str, **facts: Any) -> None:
    pass


def net(width: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build("small_cnn", 3, 32, 3, {"width": width}).eval()


@settings(max_examples=30)
@given(
    width=st.sampled_from([4, 8, 24]),
    fraction=st.floats(0.001, 1),
    rank=st.integers(1, 12),
    beta=st.booleans(),
)
def test_never_more_than_the_share_is_trained_or_the_setting_is_named(
    width: int, fraction: float, rank: int, beta: bool
) -> None:
    base = net(width)
    allowed = int(fraction * weights_of(base))
    directions = min(2 * width, 32)
    asked = QUICK.model_copy(
        update={"trained_fraction": fraction, "rank": rank, "batch_norm_beta": beta}
    )
    try:
        adapter = adapter_of(base, torch.zeros(1, 3, 32), asked, "head")
    except BudgetError as error:
        assert error.field == "adapt.trained_fraction"
        left = allowed - 3 * (directions + 1)
        assert left < 2 * width, "not even one weight for each output of the last kernel"
        assert f"{max(0, left)} are left" in str(error)
        return
    assert adapter.trained() + 3 * (directions + 1) <= allowed
    assert all(len(update.core[0]) <= rank for update in adapter.updates)
    assert beta or not adapter.groups()["batch_norm_beta"]
    assert adapter.core_norm() == 0


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 1.0])
def test_what_it_says_it_trained_is_within_the_share(
    base: nn.Module, material: Material, fraction: float
) -> None:
    asked = BRIEF.model_copy(update={"trained_fraction": fraction})
    facts = cores(Reached(base), material, asked, silent).facts
    assert facts["trained_fraction"] <= fraction
    assert facts["trained"] == round(facts["trained_fraction"] * weights_of(base))
    assert facts["trained"] > 3 * 17, "the head's weights and some more"


def test_where_the_head_alone_is_more_the_setting_is_named(
    base: nn.Module, material: Material
) -> None:
    assert left_for_cores(base, "head", 0.0149) < 0
    asked = BRIEF.model_copy(update={"trained_fraction": 0.0149})
    with pytest.raises(BudgetError, match=r"0 are left beside the head, of a model of 1659") as got:
        cores(Reached(base), material, asked, silent)
    assert got.value.field == "adapt.trained_fraction"
    assert "adapt.rungs" in str(got.value.remedy)


def test_the_head_is_solved_again_in_the_directions_that_it_has(material: Material) -> None:
    base = net(24)  # 48 features, and kernels of other shapes
    material = replace(material, suffixes={})
    start = head(Reached(base), material, BRIEF, silent)
    assert start.basis is not None
    reached = cores(start, material, BRIEF, silent)
    assert reached.basis is start.basis
    weight = head_of(reached.module, material).weight.detach().double()
    torch.testing.assert_close(weight, weight @ start.basis @ start.basis.T, atol=1e-5, rtol=1e-5)
    moved = weight - head_of(start.module, material).weight.detach().double()
    assert float(moved.abs().max()) > 1e-3, "it was solved again all the same"


def test_neither_the_champion_nor_the_rung_before_is_touched(
    base: nn.Module, material: Material
) -> None:
    start = head(Reached(base), material, BRIEF, silent)
    before = [
        (module, {key: value.clone() for key, value in module.state_dict().items()})
        for module in (base, start.module)
    ]
    reached = cores(start, material, BRIEF, silent)
    for module, state in before:
        for key, value in state.items():
            assert torch.equal(module.state_dict()[key], value)
        assert not module.training
    for key, value in start.module.state_dict().items():
        if key.endswith("weight") and "conv" in key:
            assert not torch.equal(reached.module.state_dict()[key], value)
        if "running" in key:
            assert torch.equal(reached.module.state_dict()[key], value)


def test_from_the_champion_it_solves_a_head_first(base: nn.Module, material: Material) -> None:
    """No cores are trained through a head that does not fit the windows."""
    solved = cores(head(Reached(base), material, BRIEF, silent), material, BRIEF, silent)
    alone = cores(Reached(base), material, BRIEF, silent)
    for key, value in solved.module.state_dict().items():
        torch.testing.assert_close(alone.module.state_dict()[key], value)


def test_what_was_stored_for_other_kernels_is_handed_on_to_no_rung(
    base: nn.Module, material: Material
) -> None:
    assert material.suffixes
    reached = cores(Reached(base), material, BRIEF, silent)
    assert reached.material is not None and not reached.material.suffixes
    assert reached.material.x is material.x and material.suffixes


def test_guesses_are_trained_on_as_well(base: nn.Module, material: Material) -> None:
    guessed = replace(material, guessed_x=material.unlabelled[:9], guessed_y=torch.arange(9) % 3)
    one, other = (cores(Reached(base), it, BRIEF, silent) for it in (material, guessed))
    assert one.facts["first_loss"] != other.facts["first_loss"]
    assert one.left_out is not None and other.left_out is not None
    assert len(one.left_out.squares) == len(other.left_out.squares) == len(material.y)
