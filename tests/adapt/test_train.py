from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from edgetuner.adapt.train import steps_of, train_cores  # noqa: E402
from edgetuner.bundle import Bundle  # noqa: E402
from edgetuner.config import AdaptConfig  # noqa: E402
from edgetuner.errors import AdaptationError  # noqa: E402
from edgetuner.factories import build_module  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402
from edgetuner.peft.lora_edge import LoraEdge  # noqa: E402
from edgetuner.peft.plan import Course  # noqa: E402
from tests import waves  # noqa: E402

SETTINGS = AdaptConfig(steps=20, batch_size=24)


@pytest.fixture
def adapter(wave_bundle: Path) -> LoraEdge:
    module = build_module(Bundle.load(wave_bundle))
    return LoraEdge(module, rank=4, batch_norm_beta=True, head="head")


def data(count: int = 24) -> tuple[Tensor, Tensor]:
    y = torch.tensor([waves.label_of(n) for n in range(count)])
    x = [torch.from_numpy(-waves.window(n, int(k))) for n, k in enumerate(y)]
    return torch.stack(x), y


def test_the_loss_falls_and_every_step_is_told(adapter: LoraEdge) -> None:
    told: list[tuple[int, float]] = []
    losses = train_cores(adapter, *data(), SETTINGS, lambda *step: told.append(step))
    assert told == list(enumerate(losses)) and len(losses) == 20
    assert losses[-1] < losses[0] / 2
    assert adapter.core_norm() > 0


def test_fewer_layers_take_fewer_steps(wave_bundle: Path) -> None:
    base = build_module(Bundle.load(wave_bundle))
    adapter = LoraEdge(base, rank=4, layers=["features.conv2", "features.conv3"])
    settings = SETTINGS.model_copy(update={"steps": None})
    assert len(train_cores(adapter, *data(), settings, lambda *step: None)) == steps_of(2) == 36
    assert [steps_of(layers) for layers in (1, 3, 10, 11, 52)] == [33, 39, 60, 60, 60]


def test_the_same_seed_gives_the_same_cores(wave_bundle: Path) -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        adapter = LoraEdge(build_module(Bundle.load(wave_bundle)), rank=4)
        settings = SETTINGS.model_copy(update={"seed": seed, "steps": 5})
        train_cores(adapter, *data(), settings, lambda *step: None)
        return adapter.fused_state()

    first, second, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_classes_are_drawn_evenly(adapter: LoraEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(24)
    many = torch.cat([torch.arange(24), torch.nonzero(y == 0)[:, 0].repeat(20)])
    cross_entropy = torch.nn.functional.cross_entropy
    labels: list[Tensor] = []

    def seen(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        labels.append(target)
        return cross_entropy(logits, target, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", seen)
    train_cores(adapter, x[many], y[many], SETTINGS, lambda *step: None)
    share = torch.bincount(torch.cat(labels)) / (20 * 24)
    assert [len(target) for target in labels] == [24] * 20
    assert (share - 1 / 3).abs().max() < 0.1, "a third each, though nine tenths are of one class"


def test_a_loss_that_is_not_finite_ends_the_training(adapter: LoraEdge) -> None:
    x, y = data()
    with pytest.raises(AdaptationError) as failed:
        train_cores(adapter, x * float("nan"), y, SETTINGS, lambda *step: None)
    assert failed.value.field == "step 0" and "learning_rate" in str(failed.value.remedy)
    assert adapter.core_norm() == 0, "no step was taken"


def lean(wave_bundle: Path) -> LeanLoraEdge:
    module = build_module(Bundle.load(wave_bundle))
    example = data()[0][:1]
    return LeanLoraEdge(module, example, rank=4, batch_norm_beta=True, head="head", apart=True)


def test_micro_batches_take_the_steps_of_the_whole_batch(wave_bundle: Path) -> None:
    whole, parts = lean(wave_bundle), lean(wave_bundle)
    expected = train_cores(whole, *data(), SETTINGS, lambda *step: None)
    course = Course(micro_batch=7, cached=False, peak_bytes=0)
    losses = train_cores(parts, *data(), SETTINGS, lambda *step: None, course)
    assert losses == pytest.approx(expected, rel=1e-3)
    for name, core in whole.cores().items():
        torch.testing.assert_close(parts.cores()[name], core, rtol=0.05, atol=2e-3)


def test_the_gradient_of_micro_batches_is_that_of_the_whole_batch(
    wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[Tensor]] = {}
    for size in (24, 7, 1):
        adapter = lean(wave_bundle).double()
        x, y = data()

        def caught(weights: list[Tensor], _: float, size: int = size) -> Tensor:
            seen[size] = [weight.grad.clone() for weight in weights if weight.grad is not None]
            return torch.tensor(0.0)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", caught)
        course = Course(micro_batch=size, cached=False, peak_bytes=0)
        settings = SETTINGS.model_copy(update={"steps": 1})
        train_cores(adapter, x.double(), y, settings, lambda *step: None, course)
    for size in (7, 1):
        for mine, whole in zip(seen[size], seen[24], strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-9, atol=1e-12)


def test_a_cached_prefix_trains_the_same_but_for_its_rounding(wave_bundle: Path) -> None:
    expected = train_cores(lean(wave_bundle), *data(), SETTINGS, lambda *step: None)
    course = Course(micro_batch=24, cached=True, peak_bytes=0)
    losses = train_cores(lean(wave_bundle), *data(), SETTINGS, lambda *step: None, course)
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses != expected, "float16 rounds"
