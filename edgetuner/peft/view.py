"""A second, frozen view of a module: what lets an adaptation promise to leave the base alone."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from edgetuner.errors import ModelError


def frozen_view(base: nn.Module) -> nn.Module:
    """A copy of the structure over the same weights in memory, frozen and in evaluation mode.

    Modes, hooks, gradients and devices of the view are its own. Writing into a tensor in place is
    the one thing that would reach the base, so nobody does.

    Raises:
        ModelError: a lazy parameter, or a module that holds what cannot be copied.
    """
    memo: dict[int, Tensor] = {}
    for name, parameter in base.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            remedy = "run one batch through the base first"
            raise ModelError("not initialised", field=name, remedy=remedy)
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    memo |= {id(buffer): buffer.detach() for buffer in base.buffers()}
    try:
        return copy.deepcopy(base, memo).eval()
    except (TypeError, RuntimeError) as error:
        remedy = f"keep no activations, locks or files on the module: {error}"
        raise ModelError(
            "cannot be copied", field="base", value=type(base).__name__, remedy=remedy
        ) from error
