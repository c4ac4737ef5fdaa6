"""Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1), without what comes with `torch.optim`.

The first optimiser of `torch.optim` imports torch's compiler: some 50 MB of memory and a second on
a fast machine, where the training state of a T-ResNet is 3 MB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_BETAS = 0.9, 0.999
_EPSILON = 1e-8


@dataclass(eq=False)
class _Moments:
    weight: nn.Parameter
    rate: float
    first: Tensor = field(init=False)
    second: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.first = torch.zeros_like(self.weight)
        self.second = torch.zeros_like(self.weight)


class Adam:
    """The defaults of the paper, and a learning rate for each group of weights.

    Args:
        groups: weights and their learning rate.
    """

    def __init__(self, groups: Iterable[tuple[Iterable[nn.Parameter], float]]) -> None:
        self._moments = [_Moments(w, rate) for weights, rate in groups for w in weights]
        self._steps = 0

    def zero_grad(self) -> None:
        """Every gradient is 0 from here on, in the memory that it has."""
        for moments in self._moments:
            if moments.weight.grad is not None:
                moments.weight.grad.zero_()

    @torch.no_grad()
    def step(self, schedule: float = 1.0) -> None:
        """One step down the gradients, with every learning rate times `schedule`."""
        self._steps += 1
        unbiased_first, unbiased_second = (1 - beta**self._steps for beta in _BETAS)
        for moments in self._moments:
            gradient = moments.weight.grad
            if gradient is None:
                continue
            moments.first.lerp_(gradient, 1 - _BETAS[0])
            moments.second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            spread = moments.second.sqrt().div_(math.sqrt(unbiased_second)).add_(_EPSILON)
            rate = moments.rate * schedule / unbiased_first
            moments.weight.addcdiv_(moments.first, spread, value=-rate)
