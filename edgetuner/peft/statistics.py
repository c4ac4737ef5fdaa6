"""Batch-norm statistics of the target, from windows without labels (arXiv 1603.04779).

The cheapest rung of an adaptation: no gradient, one forward pass, a few hundred numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgetuner.errors import DataError, UsageError
from edgetuner.peft.view import frozen_view


@torch.no_grad()
def reestimate(
    module: nn.Module, batches: Iterable[Tensor], *, weight: float = 1.0
) -> dict[str, Tensor]:
    """New `running_mean` and `running_var` of every batch norm, by name in `module.state_dict()`.

    Every batch norm normalises a batch by the batch itself, as in training, and everything else
    runs as in evaluation. Its new statistics are those of all the values that it saw: mean and
    unbiased variance pooled over the batches (Chan et al. 1979), whatever their sizes, not an
    average of averages. Where no other batch norm lies ahead they are exactly those of the whole
    set; behind one, the larger the batches the nearer.

    Args:
        module: left exactly as it is.
        batches: windows `(N, C, T)`; at least one batch.
        weight: of the target, from 0 to 1; the rest goes to the statistics that the module has.

    Returns:
        Buffers in the shape and dtype of the module's own. A module without batch norm has none,
        and a batch norm that no batch reaches keeps its own and is left out.

    Raises:
        DataError: no batch, a batch of one value per map, or statistics that are not finite.
        UsageError: a weight outside of 0 to 1.
    """
    if not 0.0 <= weight <= 1.0:
        remedy = "give a number from 0 to 1"
        raise UsageError("out of range", field="weight", value=weight, remedy=remedy)
    observed = frozen_view(module)
    norms = [norm for norm in observed.modules() if isinstance(norm, _BatchNorm)]
    pools = {norm: _observe(norm) for norm in norms if norm.running_mean is not None}
    if not pools:
        return {}
    for x in batches:
        observed(x)
    if not any(pool.count for pool in pools.values()):
        remedy = "give at least one batch"
        raise DataError("no batch reached a batch norm", field="batches", remedy=remedy)
    source = module.state_dict()
    buffers = {}
    # under every name that it has, since a batch norm may be shared
    for name, norm in observed.named_modules(remove_duplicate=False):
        if isinstance(norm, _BatchNorm) and norm in pools and pools[norm].count:
            for kind, target in pools[norm].statistics().items():
                key = f"{name}.{kind}" if name else kind
                blend = weight * target + (1.0 - weight) * source[key]
                buffers[key] = _finite(key, blend).to(source[key])
    return buffers


@dataclass
class _Pool:
    """Mean and sum of squared deviations of each map, in float64, merged batch by batch."""

    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        values = x.double().transpose(0, 1).flatten(start_dim=1)  # (maps, values)
        count = values.shape[1]
        if count < 2:
            remedy = "give larger batches"
            raise DataError(
                "one value per map has no variance",
                field="batches",
                value=tuple(x.shape),
                remedy=remedy,
            )
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        total = self.count + count
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        self.squares = (
            self.squares + variance * count + step.square() * (self.count * count / total)
        )
        self.count = total

    def statistics(self) -> dict[str, Tensor]:
        return {
            "running_mean": torch.as_tensor(self.mean),
            "running_var": torch.as_tensor(self.squares / (self.count - 1)),
        }


def _observe(norm: _BatchNorm) -> _Pool:
    pool = _Pool()
    norm.register_forward_pre_hook(lambda _, inputs: pool.add(inputs[0]))
    # without running statistics a batch norm uses those of the batch, and has nowhere to write them
    norm.running_mean = norm.running_var = None
    return pool


def _finite(key: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        remedy = "leave out windows with NaN or infinity"
        raise DataError("statistics are not finite", field=key, remedy=remedy)
    return tensor
