import json
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from benchmarks import step  # noqa: E402
from benchmarks.memflora import memflora  # noqa: E402
from edgetuner.models import build  # noqa: E402


@pytest.fixture(scope="module")
def measured():
    return step.measure("t_resnet", rounds=1, batch=8)


def test_every_method_trains_what_its_paper_says(measured):
    trained = {name: facts.get("trained") for name, facts in measured.items()}
    assert trained == {
        "full": 560_915,
        "head": 2193,
        "bias": 1569 + 17,
        "batch_norm": 2 * 1569,
        "lora_c": 12_804,
        "memflora": 10_624,
        "lora_edge": 2304,
        "lora_edge_lean": 2304,
        "lora_edge_fp16": 2304,
        "lora_edge_micro_8": 2304,
        "lora_edge_first_cached": 2304,
        "lora_edge_cached": 768,
        "inference": None,
    }


def test_memory_is_that_of_the_method(measured):
    saved = {name: facts.get("saved_bytes") for name, facts in measured.items()}
    # of each of 60 positions: q of 11 layers in two, and the bits of 3 x 64 and 6 x 128 maps
    assert saved["lora_edge_lean"] == 8 * 60 * (11 * 2 * 4 + (3 * 64 + 6 * 128) // 8)
    halves = 8 * 60 * (11 * 2 * 2 + (3 * 64 + 6 * 128) // 8)
    assert saved["lora_edge_fp16"] == halves + 11 * 4  # and the largest of each q
    assert saved["lora_edge_micro_8"] == saved["lora_edge_lean"]  # a batch of eight
    # the cache has q of the first two layers in two bytes
    assert saved["lora_edge_first_cached"] == saved["lora_edge_lean"] - 8 * 60 * 2 * 2 * 2
    assert saved["memflora"] == saved["lora_edge_lean"]
    assert saved["lora_edge"] > 40 * saved["lora_edge_lean"]
    for facts in measured.values():
        assert facts["step_ms"] > 0
        assert facts["ratio_to_full"] > 0


def test_memflora_has_the_gradients_of_its_formula():
    torch.manual_seed(0)
    base = build("t_resnet", 6, 20, 3).double().eval()
    layers = tuple(name for name, module in base.named_modules() if isinstance(module, nn.Conv1d))
    x = torch.randn(4, 6, 20).double()
    forward, trained, (weights,) = memflora(base, layers, 2, x[:2])
    with torch.no_grad():
        for up in trained:
            up.normal_(std=0.1)
    kernels = {
        f"{name}.weight": base.get_parameter(f"{name}.weight")
        + torch.einsum("orhk,ri->oik", adapter.up, adapter.down.flatten(1).to(x.dtype))
        for name, adapter in zip(layers_in_order(forward), weights[1:], strict=True)
    }
    expected = torch.func.functional_call(base, kernels, (x,))
    torch.testing.assert_close(forward(x), expected)
    theirs = torch.autograd.grad(expected.square().sum(), trained)
    ours = torch.autograd.grad(forward(x).square().sum(), trained)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-9)


def layers_in_order(program):
    return [step.name for step in program.steps if type(step.run).__name__ == "_Layer"]


def test_the_command_leaves_what_it_measured(tmp_path, monkeypatch, capsys, measured):
    monkeypatch.setattr(step, "measure", lambda *_, **__: measured)
    monkeypatch.setattr(step.torch, "set_num_threads", lambda _: None)
    path = tmp_path / "step.json"
    monkeypatch.setattr(sys, "argv", ["step", "--json", str(path), "--rounds", "1"])
    step.main()
    document = json.loads(path.read_text())
    assert document["inference_ms"] > 0
    assert document["methods"]["full"]["ratio_to_full"] == 1.0
    assert "lora_edge_lean" in capsys.readouterr().out
