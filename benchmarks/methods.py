"""The ways of fine-tuning that a step is compared over, each from its own paper.

All take the same windows through the same backbone. Where a method does not train batch norm, batch
norm is in evaluation mode, which is the cheaper and kinder choice for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.memflora import memflora
from edgetuner.peft.layout import kernels_innermost
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.lora_edge import LoraEdge
from edgetuner.peft.prefix import PrefixCache

Forward = Callable[[Any], Tensor]


@dataclass(eq=False)
class Method:
    """One way to fine-tune.

    Attributes:
        forward: logits `(N, K)` of windows `(N, C, T)`, or of what `prepare` made of them.
        trained: what Adam moves.
        modules: all that holds weights.
        prepare: done once per window, not once per step; of one micro-batch.
        micro_batch: windows at once, None for the whole batch.
    """

    forward: Forward
    trained: list[nn.Parameter]
    modules: tuple[nn.Module, ...]
    prepare: Callable[[Tensor], Any] = field(default=lambda x: x)
    micro_batch: int | None = None


@dataclass(frozen=True)
class Setting:
    """What all methods share: a backbone in evaluation mode, the layers to adapt, and the rank."""

    base: nn.Module
    layers: tuple[str, ...]
    last_stage: tuple[str, ...]
    rank: int
    example: Tensor


def full(setting: Setting) -> Method:
    """Every weight, batch norm in training mode."""
    module = copy.deepcopy(setting.base).train()
    return Method(module, list(module.parameters()), (module,))


def head(setting: Setting) -> Method:
    """The last linear layer."""
    return _subset(setting, lambda name, _: name.startswith("head."))


def bias(setting: Setting) -> Method:
    """Every bias, that of batch norm included (BitFit, arXiv 2106.10199)."""
    return _subset(setting, lambda name, _: name.endswith("bias"))


def batch_norm(setting: Setting) -> Method:
    """Scale and shift of every batch norm, which is in training mode."""
    method = _subset(setting, lambda _, owner: isinstance(owner, _BatchNorm))
    method.modules[0].train()
    return method


def lora_c(setting: Setting) -> Method:
    """`W + B A` with `B (O Kh, r)` from zero and a random `A (r, I Kw)`; a kernel of one dimension
    has its taps at the side of `B` (LoRA-C, arXiv 2410.16954).
    """
    module = copy.deepcopy(setting.base).requires_grad_(False)
    updates = nn.ModuleDict()
    for layer in setting.layers:
        weight = module.get_parameter(f"{layer}.weight")
        updates[layer.replace(".", "/")] = _LoraC(weight.shape, setting.rank)

    def forward(x: Tensor) -> Tensor:
        kernels = {}
        for name, update in updates.items():
            layer = f"{name.replace('/', '.')}.weight"
            kernels[layer] = module.get_parameter(layer) + update()
        logits: Tensor = torch.func.functional_call(module, kernels, (x,))
        return logits

    return Method(forward, list(updates.parameters()), (module, updates))


def lora_edge(setting: Setting) -> Method:
    """LoRA-Edge (arXiv 2511.03765) on the merged kernel, under plain autograd."""
    return _adapter(LoraEdge(setting.base, rank=setting.rank, layers=setting.layers))


def lora_edge_lean(setting: Setting) -> Method:
    """The same in the lean form."""
    return _adapter(_lean(setting, setting.layers))


def lora_edge_fp16(setting: Setting) -> Method:
    """The same with `q` kept in float16."""
    return _adapter(_lean(setting, setting.layers, q_dtype=torch.float16))


def lora_edge_micro_8(setting: Setting) -> Method:
    """The lean form, eight windows at once; their gradients add up to that of the batch."""
    method = _adapter(_lean(setting, setting.layers))
    method.micro_batch = 8
    return method


def lora_edge_first_cached(setting: Setting) -> Method:
    """The lean form of every layer; what the first ones make of a window was computed once."""
    return _cached(setting, setting.layers)


def lora_edge_cached(setting: Setting) -> Method:
    """The lean form of the last stage alone; what lies before it was run once per window."""
    return _cached(setting, setting.last_stage)


def memflora_lean(setting: Setting) -> Method:
    """MemFLoRA (arXiv 2610.08669): a frozen random 1 x 1 projection, a trained up-projection."""
    forward, trained, modules = memflora(
        setting.base, setting.layers, setting.rank, setting.example
    )
    return Method(forward, trained, modules)


METHODS: dict[str, Callable[[Setting], Method]] = {
    "full": full,
    "head": head,
    "bias": bias,
    "batch_norm": batch_norm,
    "lora_c": lora_c,
    "memflora": memflora_lean,
    "lora_edge": lora_edge,
    "lora_edge_lean": lora_edge_lean,
    "lora_edge_fp16": lora_edge_fp16,
    "lora_edge_micro_8": lora_edge_micro_8,
    "lora_edge_first_cached": lora_edge_first_cached,
    "lora_edge_cached": lora_edge_cached,
}


class _LoraC(nn.Module):
    def __init__(self, shape: Iterable[int], rank: int) -> None:
        super().__init__()
        outputs, inputs, *taps = shape
        down, across = taps if len(taps) == 2 else (taps[0], 1)
        self.shape = (outputs, down, inputs, across)
        self.planar = len(taps) == 2
        self.b = nn.Parameter(torch.zeros(outputs * down, rank))
        self.a = nn.Parameter(torch.randn(rank, inputs * across) / rank)

    def forward(self) -> Tensor:
        delta = (self.b @ self.a).reshape(self.shape).transpose(1, 2)  # (O, I, Kh, Kw)
        return delta if self.planar else delta.squeeze(3)


def _subset(setting: Setting, wanted: Callable[[str, nn.Module], bool]) -> Method:
    module = copy.deepcopy(setting.base)
    for name, parameter in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        parameter.requires_grad_(wanted(name, owner))
    return Method(module, [p for p in module.parameters() if p.requires_grad], (module,))


def _lean(setting: Setting, layers: tuple[str, ...], **options: Any) -> LeanLoraEdge:
    base = copy.deepcopy(setting.base)
    kernels_innermost(base)
    adapter = LeanLoraEdge(base, setting.example, rank=setting.rank, layers=layers, **options)
    assert not adapter.not_lean, adapter.not_lean  # or something else would be measured
    return adapter


def _cached(setting: Setting, layers: tuple[str, ...]) -> Method:
    adapter = _lean(setting, layers, apart=True)
    program = adapter.program
    assert program is not None

    def prepare(x: Tensor) -> tuple[PrefixCache, Tensor]:
        cache = PrefixCache(adapter, len(x))
        cache.border(range(len(x)), x)
        return cache, x

    def forward(prepared: tuple[PrefixCache, Tensor]) -> Tensor:
        cache, x = prepared
        return program.resume(cache.border(range(len(x)), x))

    method = _adapter(adapter)
    method.forward, method.prepare = forward, prepare
    return method


def _adapter(adapter: LoraEdge) -> Method:
    trained = [weight for group in adapter.groups().values() for weight in group]
    return Method(adapter, trained, (adapter,))
