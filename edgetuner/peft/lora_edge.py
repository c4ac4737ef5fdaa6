"""LoRA-Edge (arXiv 2511.03765): frozen suffixes `S`, trained cores `G`, `W' = W + alpha * G S`.

This is the plain form: the kernels are merged at every step and the module runs as it always did,
under `torch.func.functional_call`. So whatever the convolution does with its kernel (groups,
dilation, padding modes, being called twice) stays true, and after the training the update is simply
part of the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgetuner.errors import ModelError
from edgetuner.peft.tt import Decomposition, suffix
from edgetuner.peft.view import frozen_view


class LowRankUpdate(nn.Module):
    """`G S` of one kernel: `core (O, r)` is trained from zero, `suffix (r, I/g, *K)` is frozen.

    The suffix is held in float16 where that is off by less than 2^-10 of its norm: any will do, and
    what it was rounded to is what it is. The core is of single precision.
    """

    suffix: Tensor

    def __init__(self, outputs: int, suffix: Tensor) -> None:
        super().__init__()
        self.core = nn.Parameter(suffix.new_zeros(outputs, len(suffix)))
        half = suffix.half()
        rounding = (half.to(suffix.dtype) - suffix).norm()
        self.register_buffer("suffix", half if rounding <= 2**-10 * suffix.norm() else suffix)

    def forward(self) -> Tensor:
        delta: Tensor = torch.tensordot(
            self.core, self.suffix.to(self.core), dims=1
        )  # (O, I/g, *K)
        return delta


class LoraEdge(nn.Module):
    """A module with trainable cores: of its parameters, those that want a gradient are trained.

    The base is never written to. `self.base` is a frozen view of it, in evaluation mode whatever
    `train()` is called with, so that batch norm stays a fixed affine map and a batch can be split
    at will. Its layers bear their old names behind `base.`, as in `base.head`.

    Args:
        base: any module whose forward takes one tensor.
        rank: r of every core.
        alpha: scale of the update.
        decomposition: `tt` (the paper) or `full_suffix`, see `peft.tt`.
        layers: names of the convolutions to adapt; every Conv1d and Conv2d if None.
        clip: give a layer that does not allow `rank` the largest that it does, instead of refusing.
        batch_norm_beta: train the bias of every batch norm as well, or of those of these names.
        head: name of an `nn.Linear` to train as well.
        suffixes: suffixes of this base's kernels by layer, of the same decomposition, computed
            before; those whose rank serves are used, see `peft.tt.suffix`.

    Raises:
        ModelError: a layer that does not exist, is no convolution, is named twice, or does not
        allow the rank; a suffix of another kernel's shape.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        rank: int = 4,
        alpha: float = 1.0,
        decomposition: Decomposition = "tt",
        layers: Iterable[str] | None = None,
        clip: bool = False,
        batch_norm_beta: bool | Iterable[str] = False,
        head: str | None = None,
        suffixes: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not math.isfinite(alpha) or alpha == 0:
            raise ModelError(
                "not a scale", field="alpha", value=alpha, remedy="give a finite number, not 0"
            )
        self.alpha = alpha
        self.base = frozen_view(base)
        self.layers = convolutions(self.base) if layers is None else tuple(layers)
        _check_layers(self.base, self.layers)
        self.updates = nn.ModuleList()
        for layer in self.layers:
            weight = self._parameter(f"{layer}.weight")
            known = (suffixes or {}).get(layer)
            frozen = suffix(weight, rank, decomposition, clip=clip, known=known, layer=layer)
            self.updates.append(LowRankUpdate(len(weight), frozen.to(weight.device)))
        self.beta_names = _betas(self.base, batch_norm_beta)
        self.head_names = _head_parameters(self.base, head) if head is not None else ()
        self.betas = nn.ParameterList(
            self._parameter(name).detach().clone() for name in self.beta_names
        )
        self.head = nn.ParameterList(
            self._parameter(name).detach().clone() for name in self.head_names
        )

    def forward(self, x: Tensor) -> Tensor:
        """What the base would answer with the update in its kernels."""
        new = self._replaced()
        # each place once: torch's own tying would leave a shared module with our tensors in it
        places = {name: new[id(old)] for name, old in _places(self.base) if id(old) in new}
        logits: Tensor = torch.func.functional_call(self.base, places, (x,), tie_weights=False)
        return logits

    def train(self, mode: bool = True) -> LoraEdge:
        super().train(mode)
        self.base.eval()
        return self

    def merged(self) -> dict[str, Tensor]:
        """The adapted kernels `W + alpha * G S` by name, differentiable in the cores."""
        kernels = {}
        for layer, update in self._by_layer().items():
            weight = self._parameter(f"{layer}.weight")
            kernels[f"{layer}.weight"] = (weight + self.alpha * update()).to(weight.dtype)
        return kernels

    @torch.no_grad()
    def fused_state(self) -> dict[str, Tensor]:
        """The base's state with the update in it: the same keys, shapes and dtypes."""
        new = self._replaced()
        state = self.base.state_dict(keep_vars=True)
        return {name: new.get(id(old), old).detach().clone() for name, old in state.items()}

    def cores(self) -> dict[str, Tensor]:
        """A copy of each `G (O, r)` by the name of its layer.

        The suffix is the same wherever the base is, and the update is linear in the core: averaging
        the cores of many devices averages their dense updates.
        """
        return {layer: core.detach().clone() for layer, core in self._cores().items()}

    @torch.no_grad()
    def load_cores(self, cores: Mapping[str, Tensor]) -> None:
        """Take over the cores of an adapter of the same base and options.

        Raises:
            ModelError: other layers, another shape, or a core that is not finite; then none is
            taken over.
        """
        mine = self._cores()
        if cores.keys() != mine.keys():
            remedy = "adapt the same layers of the same base"
            raise ModelError(
                "other layers",
                field="cores",
                value=sorted(cores.keys() ^ mine.keys()),
                remedy=remedy,
            )
        for layer, core in cores.items():
            if core.shape != mine[layer].shape:
                remedy = f"use the same rank; {tuple(mine[layer].shape)} fits"
                raise ModelError(
                    "wrong shape", field=f"cores.{layer}", value=tuple(core.shape), remedy=remedy
                )
            if not bool(torch.isfinite(core).all()):
                raise ModelError(
                    "not finite",
                    field=f"cores.{layer}",
                    remedy="leave this core out of the average",
                )
        for layer, core in cores.items():
            mine[layer].copy_(core)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """What is trained by kind, each of which wants a learning rate of its own."""
        return {
            "cores": list(self._cores().values()),
            "batch_norm_beta": list(self.betas),
            "head": list(self.head),
        }

    @torch.no_grad()
    def scales(self) -> list[tuple[nn.Parameter, float]]:
        """Each trained tensor, and by how much its entries move when what they stand for moves by
        as much as it is large.

        A step of `+-u` in every entry of a core changes the kernel by `alpha u sqrt(O) |S|`, so its
        scale is `|W| / (alpha sqrt(O) |S|)`; that of a shift is the root mean square of the scale
        of its batch norm, that of a head the root mean square of its weight. With rates in these
        units one learning rate suits wide layers and narrow ones, large kernels and small.
        """
        found: list[tuple[nn.Parameter, float]] = []
        for layer, update in self._by_layer().items():
            kernel = self._parameter(f"{layer}.weight").norm()
            unit = abs(self.alpha) * math.sqrt(len(update.core)) * update.suffix.float().norm()
            found.append((update.core, _ratio(kernel, unit)))
        for name, beta in zip(self.beta_names, self.betas, strict=True):
            owner = self.base.get_submodule(name.rpartition(".")[0])
            gamma = owner._parameters.get("weight")
            found.append((beta, 1.0 if gamma is None else _root_mean_square(gamma)))
        for parameter in self.head:
            found.append((parameter, _root_mean_square(self.head[0])))
        return found

    def core_norm(self) -> float:
        """Euclidean norm of all cores together; 0 before the first step."""
        return math.sqrt(
            sum(float(core.detach().double().square().sum()) for core in self._cores().values())
        )

    def trained(self) -> int:
        """Weights that are trained, batch-norm biases and head included."""
        return sum(
            parameter.numel() for parameters in self.groups().values() for parameter in parameters
        )

    def trained_fraction(self) -> float:
        """`trained()` over all weights of the base."""
        return self.trained() / sum(parameter.numel() for parameter in self.base.parameters())

    def _replaced(self) -> dict[int, Tensor]:
        """The new tensors by the identity of the old, which may have several names and places."""
        new = self.merged() | dict(self._extras())
        return {id(self._parameter(name)): tensor for name, tensor in new.items()}

    def _extras(self) -> Iterable[tuple[str, nn.Parameter]]:
        """What is trained beside the cores, by the name of what it stands for."""
        return zip(self.beta_names + self.head_names, [*self.betas, *self.head], strict=True)

    def _cores(self) -> dict[str, nn.Parameter]:
        return {layer: update.core for layer, update in self._by_layer().items()}

    def _by_layer(self) -> dict[str, LowRankUpdate]:
        updates = cast("Iterable[LowRankUpdate]", self.updates)
        return dict(zip(self.layers, updates, strict=True))

    def _parameter(self, name: str) -> nn.Parameter:
        return self.base.get_parameter(name)


def _ratio(norm: Tensor, unit: Tensor) -> float:
    """Of two norms; 0 where there is nothing to move by."""
    return float(norm / unit) if float(unit) > 0 else 0.0


def _root_mean_square(tensor: Tensor) -> float:
    return float(tensor.detach().float().square().mean().sqrt())


def _places(base: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Every parameter of every module: a shared module once, a tied parameter at all its places."""
    for name, module in base.named_modules():
        yield from module.named_parameters(name, recurse=False, remove_duplicate=False)


def convolutions(base: nn.Module) -> tuple[str, ...]:
    """Every Conv1d and Conv2d, a kernel that several share once."""
    kernels: dict[int, str] = {}
    for name, module in base.named_modules():
        if name and isinstance(module, nn.Conv1d | nn.Conv2d):
            kernels.setdefault(id(module.weight), name)
    return tuple(kernels.values())


def _check_layers(base: nn.Module, layers: tuple[str, ...]) -> None:
    if not layers:
        remedy = "name the convolutions to adapt, or use a base that has some"
        raise ModelError("no convolution to adapt", field="layers", value=layers, remedy=remedy)
    seen: dict[int, str] = {}
    for layer in layers:
        module = _submodule(base, "layers", layer)
        if not isinstance(module, nn.Conv1d | nn.Conv2d) or "weight" not in module._parameters:
            remedy = "name a Conv1d or Conv2d whose weight is a plain parameter"
            raise ModelError("cannot be adapted", field="layers", value=layer, remedy=remedy)
        if id(module.weight) in seen:
            remedy = f"it has the kernel of {seen[id(module.weight)]}; name one of the two"
            raise ModelError("named twice", field="layers", value=layer, remedy=remedy)
        seen[id(module.weight)] = layer


def shifted_norms(base: nn.Module) -> tuple[str, ...]:
    """Every batch norm that has a bias."""
    norms = ((n, m) for n, m in base.named_modules() if isinstance(m, _BatchNorm))
    return tuple(name for name, norm in norms if norm._parameters.get("bias") is not None)


def _betas(base: nn.Module, wanted: bool | Iterable[str]) -> tuple[str, ...]:
    norms = shifted_norms(base)
    if isinstance(wanted, bool):
        if wanted and not norms:
            remedy = "switch it off"
            raise ModelError(
                "no batch norm with a bias", field="batch_norm_beta", value=True, remedy=remedy
            )
        return tuple(f"{name}.bias" for name in norms) if wanted else ()
    names = tuple(wanted)
    for name in names:
        if name not in norms:
            remedy = "name a batch norm with a bias"
            raise ModelError(
                "cannot be trained", field="batch_norm_beta", value=name, remedy=remedy
            )
    return tuple(f"{name}.bias" for name in names)


def _head_parameters(base: nn.Module, head: str) -> tuple[str, ...]:
    module = _submodule(base, "head", head)
    if not isinstance(module, nn.Linear):
        raise ModelError(
            "not a linear layer", field="head", value=head, remedy="name the last nn.Linear"
        )
    return tuple(f"{head}.{name}" for name, _ in module.named_parameters())


def _submodule(base: nn.Module, field: str, name: str) -> nn.Module:
    try:
        return base.get_submodule(name)
    except AttributeError as error:
        raise ModelError(
            "no such layer", field=field, value=name, remedy="see named_modules()"
        ) from error
