from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from edgetuner.adapt.ladder import climb  # noqa: E402
from edgetuner.adapt.material import Material  # noqa: E402
from edgetuner.adapt.rungs.head import embeddings, head  # noqa: E402
from edgetuner.adapt.rungs.reached import Reached  # noqa: E402
from edgetuner.adapt.rungs.statistics import statistics  # noqa: E402
from edgetuner.adapt.rungs.unlabelled import unlabelled  # noqa: E402
from tests.adapt.material import QUICK  # noqa: E402

RUNG = importlib.import_module("edgetuner.adapt.rungs.unlabelled")  # not the function
Labelled = Callable[..., tuple[Tensor, Tensor]]
RETAIN = QUICK.model_copy(update={"policy": "retain"})


def silent(rung: str, **facts: Any) -> None:
    pass


@pytest.fixture
def follower(base: nn.Module, material: Material, labelled: Labelled) -> nn.Module:
    """The model with statistics of turned windows: its features tell the classes apart."""
    context = replace(material, unlabelled=labelled(200, seed=6000)[0])
    return statistics(Reached(base), context, QUICK, silent).module


@pytest.fixture
def few(material: Material, labelled: Labelled) -> Material:
    """Four labelled windows a class, and 300 without a label."""
    x, y = labelled(12)
    return replace(material, x=x, y=y, unlabelled=labelled(300, seed=6000)[0])


def test_guesses_join_and_help(follower: nn.Module, few: Material, labelled: Labelled) -> None:
    start = head(Reached(follower), few, QUICK, silent)
    reached = unlabelled(start, few, QUICK, silent)
    assert reached.left_out is not None and start.left_out is not None
    assert reached.left_out.lead(start.left_out) > 1
    x, y = labelled(300, seed=7000)
    with torch.no_grad():
        before, after = (cross_entropy(one.module(x), y) for one in (start, reached))
    assert after < before
    more = reached.material
    assert more is not None and reached.facts["guessed"] == len(more.guessed_y) >= 0.78 * 300
    truth = torch.arange(300) % 3
    guesses = {row.numpy().tobytes(): int(k) for row, k in zip(few.unlabelled, truth, strict=True)}
    right = [
        guesses[row.numpy().tobytes()] == int(k)
        for row, k in zip(more.guessed_x, more.guessed_y, strict=True)
    ]
    assert sum(right) / len(right) > 0.95


def test_only_the_surest_four_fifths_of_every_class_are_guessed(
    follower: nn.Module, few: Material
) -> None:
    start = head(Reached(follower), few, QUICK, silent)
    more = unlabelled(start, few, QUICK, silent).material
    assert more is not None
    with torch.no_grad():
        confidence, guess = start.module(few.unlabelled).softmax(1).max(1)
    rows = [row.numpy().tobytes() for row in few.unlabelled]
    taken = {row.numpy().tobytes() for row in more.guessed_x}
    for k in range(3):
        mine = [n for n in range(300) if guess[n] == k]
        kept = [n for n in mine if rows[n] in taken]
        assert len(kept) == int(0.8 * len(mine)) == int((more.guessed_y == k).sum())
        least = min(float(confidence[n]) for n in kept)
        assert all(float(confidence[n]) <= least + 1e-6 for n in mine if n not in kept)


@pytest.mark.parametrize("settings", [QUICK, RETAIN], ids=["follow", "retain"])
def test_windows_that_have_a_label_are_not_guessed(
    follower: nn.Module, few: Material, settings: Any
) -> None:
    both = replace(few, unlabelled=torch.cat([few.x, few.unlabelled[:30]]))
    reached = unlabelled(Reached(follower), both, settings, silent)
    assert reached.material is not None and len(reached.material.guessed_y) <= 30
    known = {row.numpy().tobytes() for row in few.x}
    assert all(row.numpy().tobytes() not in known for row in reached.material.guessed_x)


def test_without_a_window_to_guess_it_passes_on_what_it_got(
    follower: nn.Module, few: Material
) -> None:
    start = head(Reached(follower), few, QUICK, silent)
    for none in (few.unlabelled[:0], few.x):  # none at all, or none without a label
        reached = unlabelled(start, replace(few, unlabelled=none), QUICK, silent)
        assert reached.facts["guessed"] == 0 and reached.material is None
        assert reached.module is start.module and reached.left_out is start.left_out
    climbed = list(
        climb(
            follower,
            replace(few, unlabelled=few.x),
            QUICK.model_copy(update={"rungs": ("head", "unlabelled"), "choose": "best"}),
            silent,
        )
    )
    assert [one.taken for one in climbed] == [True, False], "what changes nothing is not taken"


def test_a_head_that_errs_too_often_guesses_nothing(base: nn.Module, few: Material) -> None:
    start = head(Reached(base), few, QUICK, silent)
    assert start.facts["loo_error"] > 0.15
    reached = unlabelled(start, few, QUICK, silent)
    assert reached.facts["guessed"] == 0 and reached.module is start.module


def test_a_second_time_guesses_are_made_anew_and_the_evidence_stays_honest(
    follower: nn.Module, few: Material
) -> None:
    once = unlabelled(Reached(follower), few, QUICK, silent)
    assert once.material is not None and once.left_out is not None
    twice = unlabelled(once, once.material, QUICK, silent)
    assert twice.material is not None and twice.left_out is not None
    assert torch.equal(twice.material.guessed_y, once.material.guessed_y)
    assert torch.equal(twice.material.guessed_x, once.material.guessed_x)
    torch.testing.assert_close(twice.left_out.squares, once.left_out.squares)


@pytest.mark.parametrize("window", [0, 4, 11])
@pytest.mark.parametrize("settings", [QUICK, RETAIN], ids=["follow", "retain"])
def test_the_evidence_of_a_window_does_not_depend_on_its_own_label(
    follower: nn.Module,
    few: Material,
    settings: Any,
    window: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What both heads say of it, the one with guesses and the one without, whatever its label."""
    monkeypatch.setattr(RUNG, "_folds", lambda y: torch.arange(len(y)) % 5)
    said: list[Tensor] = []
    scores = RUNG._scores

    def listening(head: Any, z: Tensor) -> Tensor:
        mine = (z - features[window]).abs().max(dim=1).values < 1e-9
        said.extend(((z @ head.weight.T + head.bias) * head.temperature)[mine])
        return scores(head, z)

    features = embeddings(follower, few.x, "head").double()
    monkeypatch.setattr(RUNG, "_scores", listening)
    answers = []
    for label in range(3):
        y = few.y.clone()
        y[window] = label
        start = replace(
            head(Reached(follower), replace(few, y=y), settings, silent),
            share=0.1,  # chosen with the label, but only among three
        )
        start.facts["loo_error"] = 0.0
        said.clear()
        assert unlabelled(start, replace(few, y=y), settings, silent).facts["guessed"] > 0
        assert len(said) == 2
        answers.append(torch.stack(said))
    assert not torch.allclose(answers[0][0], answers[0][1], atol=1e-4), "guesses do say something"
    for other in answers[1:]:
        torch.testing.assert_close(other, answers[0], atol=1e-9, rtol=0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_every_class_is_dealt_out_evenly_over_the_folds(labels: list[int]) -> None:
    y = torch.tensor(labels)
    fold = RUNG._folds(y)
    assert fold.shape == y.shape and set(fold.tolist()) <= set(range(5))
    for k in set(labels):
        sizes = torch.bincount(fold[y == k], minlength=5)
        assert int(sizes.max() - sizes.min()) <= 1


def test_one_window_of_a_class_is_not_left_without_a_row(
    follower: nn.Module, few: Material, labelled: Labelled
) -> None:
    """Left out, its class has exemplars that stand in for it."""
    x, y = labelled(1, (2,), seed=9000)
    kept = few.y != 2
    one = replace(few, x=torch.cat([few.x[kept], x]), y=torch.cat([few.y[kept], y]))
    reached = unlabelled(Reached(follower), one, QUICK, silent)
    assert reached.left_out is not None and len(reached.left_out.squares) == len(one.y)
    assert bool(torch.isfinite(reached.left_out.squares).all())
