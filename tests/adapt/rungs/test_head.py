from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from edgetuner.adapt.ladder import predict  # noqa: E402
from edgetuner.adapt.material import Material  # noqa: E402
from edgetuner.adapt.rungs.cores import cores  # noqa: E402
from edgetuner.adapt.rungs.head import embeddings, head, head_of, spread, with_head  # noqa: E402
from edgetuner.adapt.rungs.reached import Reached  # noqa: E402
from edgetuner.adapt.rungs.statistics import statistics  # noqa: E402
from edgetuner.config import AdaptConfig  # noqa: E402
from edgetuner.errors import DataError  # noqa: E402
from edgetuner.models import build  # noqa: E402
from edgetuner.peft.spending import weights_of  # noqa: E402
from tests.adapt.material import QUICK  # noqa: E402

Labelled = Callable[..., tuple[Tensor, Tensor]]
RETAIN = QUICK.model_copy(update={"policy": "retain"})


def silent(rung: str, **facts: Any) -> None:
    pass


def accuracy(module: nn.Module, windows: tuple[Tensor, Tensor]) -> float:
    return float((predict(module, windows[0]) == windows[1].numpy()).mean())


def of(material: Material, windows: tuple[Tensor, Tensor]) -> Material:
    return replace(material, x=windows[0], y=windows[1])


@pytest.fixture
def wide() -> nn.Module:
    """64 features, more than a head weighs directions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build("small_cnn", 3, 32, 3, {"width": 32}).eval()


@pytest.mark.parametrize(("windows", "directions"), [(60, 32), (21, 21)])
def test_the_head_weighs_as_many_directions_as_it_says(
    wide: nn.Module, material: Material, labelled: Labelled, windows: int, directions: int
) -> None:
    reached = head(Reached(wide), of(material, labelled(windows)), QUICK, silent)
    assert reached.basis is not None and reached.basis.shape == (64, directions)
    assert reached.facts["trained"] == 3 * (directions + 1)
    assert reached.facts["trained_fraction"] == 3 * (directions + 1) / weights_of(wide)
    weight = head_of(reached.module, material).weight.detach().double()
    inside = weight @ reached.basis @ reached.basis.T
    torch.testing.assert_close(weight, inside, atol=1e-5, rtol=1e-5)


def test_a_basis_that_is_given_is_the_one_that_is_used(wide: nn.Module, material: Material) -> None:
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(64, 5, generator=generator).double()).Q
    reached = with_head(wide, material, QUICK, basis=basis)
    assert reached.basis is basis
    assert reached.facts["trained"] == 3 * (5 + 1)
    weight = head_of(reached.module, material).weight.detach().double()
    torch.testing.assert_close(weight, weight @ basis @ basis.T, atol=1e-5, rtol=1e-5)


def test_where_no_more_features_than_directions_are_there_all_are_weighed(
    base: nn.Module, material: Material
) -> None:
    reached = head(Reached(base), material, QUICK, silent)
    assert reached.basis is None
    assert reached.facts["trained"] == 3 * (16 + 1)


def test_only_the_head_is_changed_and_by_as_much_as_is_not_kept(
    base: nn.Module, material: Material
) -> None:
    before = {key: value.clone() for key, value in base.state_dict().items()}
    solved, half = (with_head(base, material, QUICK, keep=keep).module for keep in (0.0, 0.5))
    for key, value in before.items():
        assert torch.equal(base.state_dict()[key], value), "the champion stays"
        if key.startswith("head."):
            mean = (value + solved.state_dict()[key]) / 2
            torch.testing.assert_close(half.state_dict()[key], mean)
            assert not torch.equal(solved.state_dict()[key], value)
        else:
            assert torch.equal(half.state_dict()[key], value)
    kept = with_head(base, material, QUICK, keep=1.0).module.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in before.items())


def test_what_it_says_of_windows_left_out_is_what_it_says_of_new_ones(
    base: nn.Module, material: Material, labelled: Labelled
) -> None:
    reached = head(Reached(base), of(material, labelled(240)), QUICK, silent)
    assert reached.left_out is not None
    assert reached.left_out.squares.shape == reached.left_out.predicted.shape == (240,)
    new = 1 - accuracy(reached.module, labelled(300, seed=9000))
    assert reached.facts["loo_error"] == pytest.approx(new, abs=0.06)


def test_who_is_judged_is_up_to_the_policy(base: nn.Module, material: Material) -> None:
    for settings, rows in ((QUICK, 0), (RETAIN, len(material.source_y))):
        left_out = head(Reached(base), material, settings, silent).left_out
        assert left_out is not None and len(left_out.predicted) == len(material.y) + rows


# ------------------------------------------------------------------ what the windows lack


@pytest.mark.parametrize("settings", [QUICK, RETAIN], ids=["follow", "retain"])
@pytest.mark.parametrize("seen", [(0, 1), (0, 2), (1, 2)])
def test_a_class_that_is_absent_keeps_its_place(
    base: nn.Module, material: Material, labelled: Labelled, seen: tuple[int, int], settings: Any
) -> None:
    (absent,) = {0, 1, 2} - set(seen)
    two = of(material, labelled(40, seen))
    turned = labelled(120, seen, seed=7000)
    source = labelled(60, (absent,), seed=8000, turn=False)
    before = accuracy(base, turned)
    first = head(Reached(base), two, settings, silent)
    second = cores(first, two, settings, silent)
    assert accuracy(first.module, source) > 0.9
    assert accuracy(second.module, source) > 0.85
    assert accuracy(first.module, turned) > max(0.7, before + 0.2)
    assert accuracy(second.module, turned) > 0.9


@pytest.mark.parametrize("rung", [head, statistics])
def test_retain_keeps_the_source_where_follow_loses_it(
    base: nn.Module, material: Material, labelled: Labelled, rung: Any
) -> None:
    source = labelled(200, seed=8000, turn=False)
    some = of(material, labelled(45))
    follow, retain = (
        accuracy(rung(Reached(base), some, settings, silent).module, source)
        for settings in (QUICK, RETAIN)
    )
    assert retain > 0.9 > follow


@pytest.mark.parametrize("seed", [5000, 6000, 7000])
def test_a_fifth_of_wrong_labels_leaves_it_better_than_the_champion(
    base: nn.Module, material: Material, labelled: Labelled, seed: int
) -> None:
    x, y = labelled(90, seed=seed)
    flipped = torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < 0.2
    wrong = of(material, (x, torch.where(flipped, (y + 1) % 3, y)))
    new = labelled(200, seed=17_000)
    first = head(Reached(base), wrong, QUICK, silent)
    second = cores(first, wrong, QUICK, silent)
    assert accuracy(first.module, new) > accuracy(base, new) + 0.2
    assert accuracy(second.module, new) > accuracy(base, new) + 0.3
    assert first.facts["loo_error"] > 0.2, "and it does not claim to be better than its labels"


@pytest.mark.parametrize("settings", [QUICK, RETAIN], ids=["follow", "retain"])
def test_one_window_of_a_class_is_enough_to_go_by(
    base: nn.Module, material: Material, labelled: Labelled, settings: AdaptConfig
) -> None:
    x, y = labelled(40, (0, 1))
    one_x, one_y = labelled(1, (2,), seed=6000)
    one = of(material, (torch.cat([x, one_x]), torch.cat([y, one_y])))
    new = labelled(150, seed=7000)
    for rung in (head, statistics, cores):
        reached = rung(Reached(base), one, settings, silent)
        assert accuracy(reached.module, new) > accuracy(base, new) + 0.2
        assert reached.left_out is not None
        assert bool(torch.isfinite(reached.left_out.squares).all())


def test_fewer_windows_than_a_batch_are_enough(
    base: nn.Module, material: Material, labelled: Labelled
) -> None:
    few = of(material, labelled(3))
    few = replace(few, source_x=few.source_x[:0], source_y=few.source_y[:0], unlabelled=few.x[:1])
    some = replace(few, source_x=material.source_x, source_y=material.source_y)
    settings = QUICK.model_copy(update={"batch_size": 64, "steps": 5})
    reached = cores(Reached(base), some, settings, silent)
    assert accuracy(reached.module, (few.x, few.y)) == 1.0
    assert len(statistics(Reached(base), some, QUICK, silent).facts) > 0


# ------------------------------------------------------------------ what cannot be learned from


def test_a_class_that_nobody_has_a_window_of_is_refused_by_name(
    base: nn.Module, material: Material, labelled: Labelled
) -> None:
    known = material.source_y != 2
    two = of(material, labelled(20, (0, 1)))
    two = replace(two, source_x=two.source_x[known], source_y=two.source_y[known])
    with pytest.raises(DataError, match="classes without a row") as caught:
        head(Reached(base), two, QUICK, silent)
    assert caught.value.field == "y"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_windows_that_are_not_finite_are_refused_by_name(
    base: nn.Module, material: Material, bad: float
) -> None:
    x = material.x.clone()
    x[3, 1, 5] = bad
    for rung in (head, cores):
        with pytest.raises(DataError, match="not finite") as caught:
            rung(Reached(base), replace(material, x=x), QUICK, silent)
        assert caught.value.field == "features"


def test_features_that_tell_nothing_give_the_frequencies(
    base: nn.Module, material: Material, labelled: Labelled
) -> None:
    """A dead sensor: every window the same."""
    x, y = labelled(40, (0, 0, 0, 1))
    dead = replace(
        of(material, (torch.ones_like(x), y)), source_x=torch.ones_like(material.source_x)
    )
    reached = head(Reached(base), dead, QUICK, silent)
    layer = head_of(reached.module, dead)
    assert not bool(layer.weight.any())
    assert bool(torch.isfinite(layer.bias).all())
    assert set(predict(reached.module, labelled(30)[0]).tolist()) == {0}


def test_embeddings_do_not_depend_on_the_chunk(
    base: nn.Module, material: Material, labelled: Labelled
) -> None:
    x, _ = labelled(130)
    whole = embeddings(base, x, "head")
    assert whole.shape == (130, 16)
    torch.testing.assert_close(
        torch.cat([embeddings(base, one, "head") for one in x.split(7)]), whole
    )


@pytest.mark.parametrize(("count", "most"), [(10, 10), (3, 10), (1000, 10), (11, 10), (5, 1)])
def test_windows_are_taken_evenly(count: int, most: int) -> None:
    taken = spread(torch.arange(count), most)
    assert len(taken) == min(count, most)
    assert int(taken[0]) == 0
    if 1 < most < count:
        assert int(taken[-1]) == count - 1
        steps = taken.diff()
        assert int(steps.max() - steps.min()) <= 1
