from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from edgetuner.adapt.gradient import Gradient, GraphedGradient  # noqa: E402
from edgetuner.adapt.rungs.cores import adapter_of, plan_of  # noqa: E402
from edgetuner.config import AdaptConfig  # noqa: E402
from edgetuner.models import build  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SETTINGS = AdaptConfig(rank=2)


def test_parts_add_up_to_the_gradient_of_the_whole() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    layer = nn.Linear(4, 3).double()
    gradient = Gradient(lambda inputs: layer(inputs[0]), batch=6, label_smoothing=0.1)
    shares = [gradient.add([x[part]], y[part]) for part in (slice(0, 4), slice(4, 6))]
    added = layer.weight.grad.clone()
    layer.zero_grad()
    loss = nn.functional.cross_entropy(layer(x), y, label_smoothing=0.1)
    loss.backward()
    torch.testing.assert_close(added, layer.weight.grad, rtol=1e-12, atol=1e-12)
    assert float(sum(shares)) == pytest.approx(float(loss.detach()), rel=1e-12)


def lean(device: str, precision: str = "float32") -> tuple[LeanLoraEdge, Tensor, Tensor]:
    base = build("t_resnet", 6, 32, 4).eval().to(device)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 6, 32, generator=generator).to(device)
    settings = SETTINGS.model_copy(update={"precision": precision})
    return adapter_of(base, x[:2], settings, "head"), x, torch.arange(8, device=device) % 4


@on_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_graph_gives_the_gradients_of_the_kernels_one_by_one(precision: str) -> None:
    adapter, x, y = lean("cuda", precision)
    trained = [weight for group in adapter.groups().values() for weight in group]
    plain = Gradient(lambda inputs: adapter(inputs[0]), 8, 0.1)
    graphed = GraphedGradient(lambda inputs: adapter(inputs[0]), 8, 0.1, trained)
    seen = []
    for gradient in (plain, graphed, graphed):
        for weight in trained:
            if weight.grad is not None:
                weight.grad.zero_()
        shares = [gradient.add([x[rows]], y[rows]) for rows in (slice(0, 4), slice(4, 8))]
        shares.append(gradient.add([x[:3]], y[:3]))  # another shape
        seen.append([*[w.grad.clone() for w in trained], torch.stack(shares)])
    for mine, their in zip(seen[1], seen[0], strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-4)
    for first, second in zip(seen[1], seen[2], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


@on_cuda
def test_the_lean_form_answers_on_cuda_as_on_the_cpu() -> None:
    ours, x, y = lean("cuda")
    theirs, *_ = lean("cpu")
    assert ours.why == ""
    torch.testing.assert_close(ours(x).cpu(), theirs(x.cpu()), rtol=1e-3, atol=1e-3)
    for adapter, device in ((ours, "cuda"), (theirs, "cpu")):
        Gradient(lambda inputs, a=adapter: a(inputs[0]), 8, 0.0).add([x.to(device)], y.to(device))
    for mine, their in zip(ours.groups()["cores"], theirs.groups()["cores"], strict=True):
        torch.testing.assert_close(mine.grad.cpu(), their.grad, rtol=1e-2, atol=1e-3)


@on_cuda
def test_the_peak_on_cuda_is_foretold() -> None:
    adapter, x, y = lean("cuda")
    planned = plan_of(adapter.base.cpu(), (6, 32), SETTINGS, "head")
    adapter.base.cuda()
    x, y = x.repeat(32, 1, 1), y.repeat(32)
    gradient = Gradient(lambda inputs: adapter(inputs[0]), len(x), 0.0)
    gradient.add([x], y)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradient.add([x], y)
    measured = torch.cuda.max_memory_allocated() - before
    foretold = planned.peak_bytes(len(x)) - planned.peak_bytes(0)
    assert foretold < measured < 1.6 * foretold, "cuDNN's own memory comes on top of it"
