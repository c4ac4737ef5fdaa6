from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgetuner.adapt.ladder import (  # noqa: E402
    Climbed,
    chosen,
    climb,
    held_f1,
    predict,
    proven_share,
)
from edgetuner.adapt.material import Material  # noqa: E402
from edgetuner.adapt.rungs import RUNGS  # noqa: E402
from edgetuner.adapt.rungs.reached import LeftOut, Reached  # noqa: E402
from edgetuner.config import AdaptConfig, GateConfig  # noqa: E402
from edgetuner.errors import AdaptationError, BudgetError  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402
from edgetuner.peft.suffixes import suffixes_of  # noqa: E402
from tests.adapt.material import QUICK  # noqa: E402

CORES = importlib.import_module(
    "edgetuner.adapt.rungs.cores"
)  # the package has a function so named
BEST = QUICK.model_copy(update={"choose": "best"})


def silent(rung: str, **facts: Any) -> None:
    pass


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_gives_a_whole_model_and_leaves_the_base(
    base: nn.Module, material: Material, name: str
) -> None:
    before = {key: value.clone() for key, value in base.state_dict().items()}
    reached = RUNGS[name](Reached(base), material, QUICK, silent)
    adapted, facts = reached.module, reached.facts
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
    climbed = list(climb(base, material, QUICK, lambda rung, **facts: told.append(rung)))
    assert [one.rung for one in climbed] == list(QUICK.rungs)
    assert all(one.taken for one in climbed)
    assert list(dict.fromkeys(told)) == list(QUICK.rungs)
    assert climbed[-1].facts["core_norm"] > 0
    assert climbed[-1].held_f1 == 1.0


def test_stored_suffixes_change_nothing_and_are_dropped_with_their_kernels(
    base: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = replace(material, suffixes=suffixes_of(base, QUICK.rank, QUICK.decomposition))
    bare = replace(material, suffixes={})
    twice = QUICK.model_copy(update={"rungs": ("cores", "cores"), "steps": 5})
    known: list[int] = []
    adapter = CORES.LeanLoraEdge

    def told(*args: Any, **options: Any) -> LeanLoraEdge:
        known.append(len(options["suffixes"]))
        return adapter(*args, **options)

    monkeypatch.setattr(CORES, "LeanLoraEdge", told)
    ours, theirs = (list(climb(base, one, twice, silent)) for one in (stored, bare))
    assert known == [len(stored.suffixes), 0, 0, 0]
    for one, other in zip(ours, theirs, strict=True):
        for key, value in one.module.state_dict().items():
            assert torch.equal(value, other.module.state_dict()[key])


def test_the_last_rung_that_was_taken_is_chosen(base: nn.Module) -> None:
    taken = (True, True, False, True, False)
    climbed = [Climbed(str(n), Reached(base), None, 0.0, it) for n, it in enumerate(taken)]
    assert chosen(climbed).rung == "3"
    assert chosen(climbed[:3]).rung == "1"


def test_without_held_out_windows_nothing_is_measured(base: nn.Module, material: Material) -> None:
    empty = replace(material, held_x=material.held_x[:0], held_y=material.held_y[:0])
    assert held_f1(base, empty) is None
    assert "held_f1" not in Climbed("head", Reached(base), None, 0.0, True).to_wire()


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
    monkeypatch.setattr(CORES, "train_cores", lambda *_: pytest.fail("a step was taken"))
    settings = QUICK.model_copy(update={"memory_budget_mb": 64})  # torch alone is more
    with pytest.raises(
        BudgetError, match=r"holds \d+ MB .* needs some \d+0 MB .*got 64.*raise it$"
    ):
        RUNGS["cores"](Reached(base), material, settings, silent)


def test_a_tight_budget_makes_the_steps_smaller_and_changes_nothing_else(
    base: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    # at the rate of a large net thirty steps of a tiny one make much of a rounding
    settings = QUICK.model_copy(update={"learning_rate": 0.1})
    whole = RUNGS["cores"](Reached(base), material, settings, silent)
    facts = whole.facts
    assert (facts["micro_batch"], facts["prefix_cached"]) == (24, True)
    adapter = CORES.adapter_of(base, material.x[:1], settings, "head")
    planned = CORES.plan(adapter, material.x[:1])
    room = planned.peak_bytes(2) - planned.weights_bytes
    spent = settings.memory_budget_mb * 2**20 - CORES._AFTERWARDS - int(CORES._HEAP * (room + 1))
    monkeypatch.setattr(CORES, "held_bytes", lambda: spent)
    parts = RUNGS["cores"](Reached(base), material, settings, silent)
    facts = parts.facts
    assert (facts["micro_batch"], facts["prefix_cached"]) == (2, False)
    logits = whole.module(material.held_x)
    difference = (logits - parts.module(material.held_x)).abs().max()
    assert difference < 0.01 * logits.abs().max()
    assert (logits - base(material.held_x)).abs().max() > 0.1 * logits.abs().max()


def test_only_the_layers_that_are_named_are_adapted(base: nn.Module, material: Material) -> None:
    settings = QUICK.model_copy(update={"layers": ("features.conv3", "features.norm3")})
    reached = RUNGS["cores"](Reached(base), material, settings, silent)
    adapted, facts = reached.module, reached.facts
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
    adapter = CORES.adapter_of(base.eval(), material.x[:1], QUICK, "head")
    assert adapter.groups()["batch_norm_beta"] == []


def test_compact_keeps_less_and_learns_the_same(base: nn.Module, material: Material) -> None:
    compact = QUICK.model_copy(update={"compact": True})
    kept = [
        CORES.plan_of(base, (3, 32), settings, "head").saved_bytes(64)
        for settings in (QUICK, compact)
    ]
    assert kept[1] < kept[0]
    scores = [
        held_f1(RUNGS["cores"](Reached(base), material, settings, silent).module, material)
        for settings in (QUICK, compact)
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.05)


def test_a_rung_that_does_not_fit_leaves_the_ones_before_it(
    base: nn.Module, material: Material
) -> None:
    settings = QUICK.model_copy(update={"memory_budget_mb": 64})
    climbed = list(climb(base, material, settings, silent))
    assert [rung.rung for rung in climbed] == ["head", "unlabelled", "statistics"]
    assert "adapt.memory_budget_mb" in climbed[-1].facts["refused"]["cores"]
    with pytest.raises(BudgetError):
        list(climb(base, material, settings.model_copy(update={"rungs": ("cores",)}), silent))


def test_the_facts_say_how_the_cores_were_trained(base: nn.Module, material: Material) -> None:
    asked = QUICK.model_copy(update={"cuda_graph": True})
    facts = RUNGS["cores"](Reached(base), material, asked, silent).facts
    told = {key: facts[key] for key in ("device", "precision", "graph")}
    assert told == {"device": "cpu", "precision": "float32", "graph": False}
    assert "not_lean" not in facts
    base.features.relu1 = nn.Softplus()
    facts = RUNGS["cores"](Reached(base), material, QUICK, silent).facts
    assert facts["not_lean"] == {"features.relu1": "no lean form of Softplus"}


# ------------------------------------------------------------------ which rung is taken, and when


class Scripted:
    """A rung that reaches a given module with given errors on the windows left out."""

    def __init__(self, module: nn.Module, squares: torch.Tensor, predicted: torch.Tensor) -> None:
        self.reached = Reached(
            module, 0.1, LeftOut(squares.double(), predicted, torch.ones(len(squares)).double())
        )
        self.asked = 0

    def __call__(
        self, start: Reached, material: Material, settings: AdaptConfig, report: Any
    ) -> Reached:
        self.asked += 1
        return replace(self.reached, facts={})


class Always(nn.Module):
    """Answers each known window with its own label, but the first `wrong` ones with another."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, wrong: int = 0) -> None:
        super().__init__()
        self.x = x
        self.answers = torch.where(torch.arange(len(y)) < wrong, (y + 1) % 3, y)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(x.flatten(1), self.x.flatten(1)).argmin(1)
        return nn.functional.one_hot(self.answers[nearest], 3).float()


def scripted(
    monkeypatch: pytest.MonkeyPatch, material: Material, **rungs: tuple[int, float, float]
) -> dict[str, Scripted]:
    """Rungs by name: wrong held-out windows, mean squared error left out, and its spread."""
    own = material.y
    made = {}
    for name, (wrong, mean, spread) in rungs.items():
        squares = mean + spread * torch.linspace(-1, 1, len(own)).double()
        module = Always(material.held_x, material.held_y, wrong)
        made[name] = Scripted(module, squares, own)
        monkeypatch.setitem(RUNGS, name, made[name])
    return made


@pytest.mark.parametrize(
    ("rung", "wrong", "mean", "taken"),
    [
        ("cores", 0, 0.4, True),
        ("cores", 2, 0.4, True),
        ("cores", 3, 0.4, False),  # the held-out windows get worse
        ("cores", 0, 0.6, False),  # those left out do
        ("cores", 0, 0.499, True),  # any lead is enough for cores
        ("statistics", 0, 0.499, False),  # not for statistics
        ("statistics", 0, 0.1, True),
        ("unlabelled", 0, 0.5, False),  # the same is not better
    ],
)
def test_a_rung_is_taken_where_windows_unseen_speak_for_it(
    base: nn.Module,
    material: Material,
    monkeypatch: pytest.MonkeyPatch,
    rung: Any,
    wrong: int,
    mean: float,
    taken: bool,
) -> None:
    scripted(
        monkeypatch, material, head=(2, 0.5, 0.0), **{rung: (wrong, mean, 0.09 * (mean < 0.5))}
    )
    settings = BEST.model_copy(update={"rungs": ("head", rung)})
    first, second = climb(base, material, settings, silent)
    assert first.taken, "the head is taken: nothing else was measured"
    assert second.taken == taken
    assert chosen([first, second]) is (second if taken else first)
    last = list(climb(base, material, settings.model_copy(update={"choose": "last"}), silent))
    assert last[-1].taken and chosen(last) is last[-1], "asked for the last, it is the last"


def test_the_next_rung_starts_from_the_last_one_taken(
    base: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scripted(monkeypatch, material, head=(2, 0.5, 0.0), cores=(3, 0.1, 0.0))
    starts: list[Reached] = []

    def statistics(start: Reached, *_: Any) -> Reached:
        starts.append(start)
        return replace(made["head"].reached, facts={})

    monkeypatch.setitem(RUNGS, "statistics", statistics)
    settings = BEST.model_copy(update={"rungs": ("head", "cores", "statistics")})
    climbed = list(climb(base, material, settings, silent))
    assert [one.taken for one in climbed[:2]] == [True, False]
    assert starts[0].module is climbed[0].module


LENIENT = GateConfig(min_windows=4, max_p_value=0.9)


@pytest.mark.parametrize(
    ("gate", "enough", "climbed"),
    [
        (LENIENT, 0.9, 1),
        (LENIENT, 0.95, 2),  # thirty windows without an error do not prove it
        (GateConfig(min_windows=500), 0.9, 2),  # the gate would refuse it for want of windows
        (LENIENT.model_copy(update={"min_gain": 1.0}), 0.9, 2),
    ],
)
def test_it_stops_as_soon_as_the_gate_is_satisfied_and_enough_is_proven(
    base: nn.Module,
    material: Material,
    monkeypatch: pytest.MonkeyPatch,
    gate: GateConfig,
    enough: float,
    climbed: int,
) -> None:
    made = scripted(monkeypatch, material, head=(0, 0.5, 0.0), cores=(0, 0.4, 0.0))
    unseen = len(material.y) + len(material.held_y)
    assert 0.9 < proven_share(unseen, unseen) < 0.95
    settings = BEST.model_copy(update={"rungs": ("head", "cores"), "enough": enough})
    assert len(list(climb(base, material, settings, silent, gate))) == climbed
    assert made["cores"].asked == climbed - 1
    always = settings.model_copy(update={"choose": "last"})
    assert len(list(climb(base, material, always, silent, gate))) == 2


def test_windows_that_are_wrong_are_a_reason_to_go_on(
    base: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, material, head=(2, 0.5, 0.0), cores=(0, 0.4, 0.0))
    settings = BEST.model_copy(update={"rungs": ("head", "cores"), "enough": 0.9})
    assert len(list(climb(base, material, settings, silent, LENIENT))) == 2


@pytest.mark.parametrize(
    ("served_wrong", "wrong", "climbed"),
    [
        (3, 3, 1),  # half of three errors mended: not even then
        (3, 0, 1),  # a perfect one could not be told from who is served
        (7, 4, 2),
        (9, 9, 2),  # frozen features do not suffice: the cores have to work
    ],
)
def test_what_the_gate_could_not_see_is_not_trained_for(
    base: nn.Module,
    material: Material,
    monkeypatch: pytest.MonkeyPatch,
    served_wrong: int,
    wrong: int,
    climbed: int,
) -> None:
    assert len(material.held_y) == 9
    made = scripted(monkeypatch, material, head=(wrong, 0.5, 0.0), cores=(0, 0.4, 0.0))
    served = material.held_y.clone()
    served[:served_wrong] = (served[:served_wrong] + 1) % 3
    known = replace(material, held_served=served)
    settings = BEST.model_copy(update={"rungs": ("head", "cores"), "enough": 1.0})
    gate = GateConfig(max_p_value=0.1, min_windows=9)
    assert len(list(climb(base, known, settings, silent, gate))) == climbed
    assert made["cores"].asked == climbed - 1
    assert len(list(climb(base, known, settings, silent))) == 2, "nobody asks for a gate"
    demanding = gate.model_copy(update={"min_windows": 10})
    assert len(list(climb(base, known, settings, silent, demanding))) == 2, "more may come"


def test_without_held_out_windows_the_gate_is_asked_about_those_left_out(
    base: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, material, head=(0, 0.5, 0.0), cores=(0, 0.4, 0.0))
    empty = replace(material, held_x=material.held_x[:0], held_y=material.held_y[:0])
    settings = BEST.model_copy(update={"rungs": ("head", "cores"), "enough": 0.8})
    (only,) = climb(base, empty, settings, silent, LENIENT)
    assert only.held_f1 is None
    more = settings.model_copy(update={"enough": 0.9})
    assert len(list(climb(base, empty, more, silent, LENIENT))) == 2


def test_real_rungs_stop_at_the_one_that_is_enough(base: nn.Module, material: Material) -> None:
    settings = BEST.model_copy(update={"enough": 0.9})
    climbed = list(climb(base, material, settings, silent, LENIENT))
    assert climbed[-1].rung == "statistics" and chosen(climbed) is climbed[-1]
    assert climbed[-1].held_f1 == 1.0
    assert [one.rung for one in climb(base, material, BEST, silent, LENIENT)] == list(BEST.rungs)


@pytest.mark.parametrize(
    ("right", "of", "share"),
    # of 36 without an error: 36 / (36 + z^2); the others by the formula of Wilson (1927), rounded
    [(36, 36, 0.9301), (1, 1, 0.2698), (0, 10, 0.0), (5, 10, 0.2693), (90, 100, 0.8396)],
)
def test_the_share_that_is_proven_is_wilsons(right: int, of: int, share: float) -> None:
    assert proven_share(right, of) == pytest.approx(share, abs=1e-4)


@given(of=st.integers(1, 5000), data=st.data())
def test_at_the_proven_share_what_was_seen_is_just_likely(of: int, data: st.DataObject) -> None:
    """Wilson's end is where the share seen is z standard errors above the share itself."""
    right = data.draw(st.integers(0, of))
    share = proven_share(right, of)
    assert -1e-12 < share < right / of + 1e-12
    share = max(0.0, share)
    surplus = right / of - share
    assert surplus == pytest.approx(1.645 * math.sqrt(share * (1 - share) / of), abs=1e-6)
    if right < of:
        assert proven_share(right + 1, of) > share
    assert proven_share(2 * right, 2 * of) > share - 1e-12, "the more windows, the more is proven"


def test_where_windows_unseen_speak_for_no_rung_there_is_no_candidate(
    base: nn.Module, material: Material
) -> None:
    """Statistics of the very windows that the champion knows best cannot lead clearly."""
    at_home = replace(
        material,
        x=material.source_x,
        y=material.source_y,
        unlabelled=material.source_x,
        held_x=material.source_x[:0],
        held_y=material.source_y[:0],
    )
    only = QUICK.model_copy(update={"rungs": ("statistics",), "choose": "best"})
    climbed = list(climb(base, at_home, only, silent))
    assert [one.taken for one in climbed] == [False]
    with pytest.raises(AdaptationError, match=r"adapt\.rungs: windows unseen speak for none"):
        chosen(climbed)
