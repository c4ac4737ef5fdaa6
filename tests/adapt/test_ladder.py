from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner.adapt import ladder  # noqa: E402
from edgetuner.adapt.job import HOLDOUT, TRAIN  # noqa: E402
from edgetuner.adapt.ladder import Climbed, climb, held_f1, predict  # noqa: E402
from edgetuner.adapt.material import Material  # noqa: E402
from edgetuner.adapt.rungs import RUNGS  # noqa: E402
from edgetuner.bundle import Bundle  # noqa: E402
from edgetuner.errors import BudgetError  # noqa: E402
from edgetuner.factories import build_module  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402
from edgetuner.peft.suffixes import suffixes_of  # noqa: E402
from tests.adapt.material import QUICK, windows  # noqa: E402


def silent(rung: str, **facts: Any) -> None:
    pass


@pytest.fixture(scope="module")
def bundle(wave_bundle: Path) -> Bundle:
    return Bundle.load(wave_bundle)


@pytest.fixture
def base(bundle: Bundle) -> nn.Module:
    return build_module(bundle)


@pytest.fixture(scope="module")
def material(bundle: Bundle) -> Material:
    def tensor(x: Any) -> torch.Tensor:
        scaled = (x.astype("float32") - bundle.mean[:, None]) / bundle.std[:, None]
        return torch.from_numpy(scaled)

    held, train = windows().labelled(HOLDOUT), windows().labelled(TRAIN)
    return Material(
        x=tensor(train[0]),
        y=torch.from_numpy(train[1]),
        unlabelled=tensor(windows().unheld()),
        held_x=tensor(held[0]),
        held_y=torch.from_numpy(held[1]),
        source_x=tensor(bundle.exemplar_x),
        source_y=torch.from_numpy(bundle.exemplar_y),
        classes=3,
        head="head",
    )


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_gives_a_whole_model_and_leaves_the_base(
    base: nn.Module, material: Material, name: str
) -> None:
    before = {key: value.clone() for key, value in base.state_dict().items()}
    adapted, facts = RUNGS[name](base, material, QUICK, silent)
    assert not adapted.training
    after = adapted.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert torch.equal(base.state_dict()[key], value), "the champion is not touched"
        assert (after[key].shape, after[key].dtype) == (value.shape, value.dtype)
    assert any(not torch.equal(after[key], before[key]) for key in before)
    assert 0 <= facts["trained_fraction"] < 1
    assert (held_f1(adapted, material) or 0) > (held_f1(base, material) or 0)


def test_the_rungs_are_climbed_in_turn(base: nn.Module, material: Material) -> None:
    told: list[str] = []
    climbed = climb(base, material, QUICK, lambda rung, **facts: told.append(rung))
    assert [one.rung for one in climbed] == list(QUICK.rungs)
    assert list(dict.fromkeys(told)) == list(QUICK.rungs)
    assert climbed[-1].facts["core_norm"] > 0
    assert climbed[-1].held_f1 == 1.0


def test_stored_suffixes_change_nothing_and_are_dropped_with_their_kernels(
    base: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = replace(material, suffixes=suffixes_of(base, QUICK.rank, QUICK.decomposition))
    twice = QUICK.model_copy(update={"rungs": ("cores", "cores"), "steps": 5})
    known: list[int] = []
    adapter = ladder.LeanLoraEdge

    def told(*args: Any, **options: Any) -> LeanLoraEdge:
        known.append(len(options["suffixes"]))
        return adapter(*args, **options)

    monkeypatch.setattr(ladder, "LeanLoraEdge", told)
    ours, theirs = (climb(base, one, twice, silent) for one in (stored, material))
    assert known == [len(stored.suffixes), 0, 0, 0]
    for one, other in zip(ours, theirs, strict=True):
        for key, value in one.module.state_dict().items():
            assert torch.equal(value, other.module.state_dict()[key])


def test_the_better_rung_or_the_last_is_chosen(base: nn.Module) -> None:
    scores = (0.4, 0.9, None, 0.9, 0.1)
    climbed = [Climbed(str(n), base, score, 0.0, {}) for n, score in enumerate(scores)]
    assert best(climbed).rung == "3", "of equals the later"
    assert choose(climbed, QUICK.model_copy(update={"choose": "best"})).rung == "3"
    assert choose(climbed, QUICK.model_copy(update={"choose": "last"})).rung == "4"


def test_without_held_out_windows_nothing_is_measured(base: nn.Module, material: Material) -> None:
    empty = replace(material, held_x=material.held_x[:0], held_y=material.held_y[:0])
    assert held_f1(base, empty) is None
    assert "held_f1" not in Climbed("head", base, None, 0.0, {}).to_wire()


def test_exemplars_stand_in_for_classes_without_a_label(material: Material) -> None:
    known = material.y != 1
    partial = replace(material, x=material.x[known], y=material.y[known])
    x, y = partial.with_source()
    assert len(x) == len(y) == known.sum() + (material.source_y == 1).sum()
    assert set(y.tolist()) == {0, 1, 2}
    assert len(material.with_source()[1]) == len(material.y)


def test_prediction_does_not_depend_on_the_chunk(base: nn.Module, material: Material) -> None:
    many = material.held_x.repeat(10, 1, 1)
    one_by_one = [int(predict(base, x[None])[0]) for x in material.held_x]
    assert predict(base, many).tolist() == one_by_one * 10


def test_a_budget_that_is_spent_already_is_refused_before_a_step(
    base: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "train_cores", lambda *_: pytest.fail("a step was taken"))
    settings = QUICK.model_copy(update={"memory_budget_mb": 64})  # torch alone is more
    with pytest.raises(
        BudgetError, match=r"holds \d+ MB .* needs some \d+0 MB .*got 64.*raise it$"
    ):
        RUNGS["cores"](base, material, settings, silent)


def test_a_tight_budget_makes_the_steps_smaller_and_changes_nothing_else(
    base: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, facts = RUNGS["cores"](base, material, QUICK, silent)
    assert (facts["micro_batch"], facts["prefix_cached"]) == (24, True)
    adapter = ladder.adapter_of(base, material.x[:1], QUICK, "head")
    planned = ladder.plan(adapter, material.x[:1])
    room = planned.peak_bytes(2) - planned.weights_bytes
    spent = QUICK.memory_budget_mb * 2**20 - ladder._AFTERWARDS - int(ladder._HEAP * (room + 1))
    monkeypatch.setattr(ladder, "resident_bytes", lambda: spent)
    parts, facts = RUNGS["cores"](base, material, QUICK, silent)
    assert (facts["micro_batch"], facts["prefix_cached"]) == (2, False)
    difference = (whole(material.held_x) - parts(material.held_x)).abs().max()
    assert difference < 0.05 * whole(material.held_x).abs().max()


def test_only_the_layers_that_are_named_are_adapted(base: nn.Module, material: Material) -> None:
    settings = QUICK.model_copy(update={"layers": ("features.conv3", "features.norm3")})
    adapted, facts = RUNGS["cores"](base, material, settings, silent)
    changed = {
        name
        for name, value in adapted.state_dict().items()
        if not torch.equal(value, base.state_dict()[name])
    }
    assert changed == {"features.conv3.weight", "features.norm3.bias", "head.weight", "head.bias"}
    assert facts["trained"] == 16 * 4 + 16 + 17 * 3


def test_a_model_without_batch_norm_has_no_shifts_to_train(material: Material) -> None:
    base = nn.Sequential()
    base.conv = nn.Conv1d(3, 8, 3)
    base.flat = nn.Flatten()
    base.head = nn.Linear(8 * 30, 3)
    adapter = ladder.adapter_of(base.eval(), material.x[:1], QUICK, "head")
    assert adapter.groups()["batch_norm_beta"] == []


def test_compact_keeps_less_and_learns_the_same(base: nn.Module, material: Material) -> None:
    compact = QUICK.model_copy(update={"compact": True})
    kept = [
        ladder.plan_of(base, (3, 32), settings, "head").saved_bytes(64)
        for settings in (QUICK, compact)
    ]
    assert kept[1] < kept[0]
    scores = [
        held_f1(RUNGS["cores"](base, material, settings, silent)[0], material)
        for settings in (QUICK, compact)
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.05)


def test_a_rung_that_does_not_fit_leaves_the_ones_before_it(
    base: nn.Module, material: Material
) -> None:
    settings = QUICK.model_copy(update={"memory_budget_mb": 64})
    climbed = climb(base, material, settings, silent)
    assert [rung.rung for rung in climbed] == ["statistics", "head"]
    assert "adapt.memory_budget_mb" in climbed[-1].facts["refused"]["cores"]
    with pytest.raises(BudgetError):
        climb(base, material, settings.model_copy(update={"rungs": ("cores",)}), silent)


def test_the_facts_say_how_the_cores_were_trained(base: nn.Module, material: Material) -> None:
    asked = QUICK.model_copy(update={"cuda_graph": True})
    _, facts = RUNGS["cores"](base, material, asked, silent)
    told = {key: facts[key] for key in ("device", "precision", "graph")}
    assert told == {"device": "cpu", "precision": "float32", "graph": False}
    assert "not_lean" not in facts
    base.features.relu1 = nn.Softplus()
    _, facts = RUNGS["cores"](base, material, QUICK, silent)
    assert facts["not_lean"] == {"features.relu1": "no lean form of Softplus"}
