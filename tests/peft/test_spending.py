import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgetuner.errors import BudgetError, ModelError  # noqa: E402
from edgetuner.models import build  # noqa: E402
from edgetuner.peft.lora_edge import LoraEdge  # noqa: E402
from edgetuner.peft.spending import (  # noqa: E402
    afford,
    affordable_rank,
    head_directions,
    left_for_cores,
    weights_of,
)

NET = build("small_cnn", 6, 40, 5, {"width": 8}).eval()  # kernels of 8, 16 and 16 outputs
LAYERS = ("features.conv1", "features.conv2", "features.conv3")
NORMS = ("features.norm1", "features.norm2", "features.norm3")
COST = {"features.conv1": 8, "features.conv2": 16, "features.conv3": 16}


def core_weights(spending):
    """Counted by the adapter that is built from it."""
    adapter = LoraEdge(
        NET,
        rank=spending.rank,
        layers=spending.layers,
        batch_norm_beta=spending.norms,
        clip=True,
    )
    return adapter.trained()


@given(st.integers(1, 20), st.integers(8, 1200), st.booleans())
def test_what_is_afforded_is_never_more_than_allowed_and_nothing_larger_would_be(
    rank, allowed, shifts
):
    if allowed < 16:  # the last layers are kept, not the cheapest
        with pytest.raises(BudgetError):
            afford(NET, (), rank, allowed, shifts=shifts)
        return
    found = afford(NET, (), rank, allowed, shifts=shifts)
    spent = core_weights(found)
    assert spent <= allowed
    assert 1 <= found.rank <= rank
    assert found.layers == LAYERS[-len(found.layers) :], "the last layers"
    assert found.norms == (NORMS[-len(found.norms) :] if found.norms else ()), "the last norms"
    if found.rank < rank and len(found.layers) == 3:
        assert 40 * (found.rank + 1) > allowed
    if len(found.layers) < 3:
        assert found.rank == 1
        assert spent + COST[LAYERS[-len(found.layers) - 1]] > allowed
    if shifts and len(found.norms) < 3:
        assert spent + COST[LAYERS[-len(found.norms) - 1]] > allowed
    assert shifts or not found.norms


@given(st.integers(1, 64), st.integers(0, 3000))
def test_more_weights_never_buy_a_smaller_rank(rank, allowed):
    one, more = (affordable_rank(NET, LAYERS, rank, n) for n in (allowed, allowed + 1))
    assert 1 <= one <= more <= rank


def test_a_kernel_that_does_not_allow_the_rank_costs_what_it_takes():
    depthwise = nn.Sequential(nn.Conv1d(32, 32, 3, groups=32), nn.Conv1d(32, 32, 1))
    # 3 is the limit of the first, so rank 8 costs 32 * 3 + 32 * 8
    assert affordable_rank(depthwise, ("0", "1"), 8, 352) == 8
    assert affordable_rank(depthwise, ("0", "1"), 8, 351) == 7


def test_layers_and_norms_that_are_named_are_the_only_ones():
    found = afford(NET, ("features.conv3", "features.norm2"), 4, 10_000)
    assert (found.rank, found.layers, found.norms) == (4, LAYERS[2:], ("features.norm2",))


@pytest.mark.parametrize("allowed", [-50, 0, 15])
def test_not_even_one_core_names_the_setting_and_what_it_takes(allowed):
    with pytest.raises(BudgetError, match=f"last layer has 16 .*and {max(0, allowed)} are") as it:
        afford(NET, (), 4, allowed)
    assert it.value.field == "adapt.trained_fraction"
    assert f"of a model of {weights_of(NET)}" in str(it.value)


def test_a_pattern_that_fits_nothing_is_refused_by_name():
    with pytest.raises(ModelError, match="conv9"):
        afford(NET, ("*.conv9",), 4, 1000)


@pytest.mark.parametrize(
    ("features", "classes", "directions"),
    [
        (16, 3, 16),
        (32, 3, 32),
        (64, 3, 32),
        (64, 17, 34),
        (64, 19, 38),
        (20, 19, 20),
        (128, 70, 128),
    ],
)
def test_a_head_weighs_thirty_two_directions_or_two_a_class(features, classes, directions):
    base = nn.Sequential(nn.Linear(features, classes))
    assert head_directions(base, "0") == directions
    everything = left_for_cores(base, "0", 1.0)
    assert everything == classes * (features + 1) - classes * (directions + 1)


def test_weights_are_those_of_the_state_without_buffers():
    assert weights_of(NET) == sum(
        value.numel()
        for name, value in NET.state_dict().items()
        if "running" not in name and "tracked" not in name
    )
