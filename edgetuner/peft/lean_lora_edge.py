"""LoRA-Edge in its lean form: the same adapter, whose forward pass keeps next to nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetuner.errors import ModelError
from edgetuner.peft.capture import trace
from edgetuner.peft.lora_edge import LoraEdge
from edgetuner.peft.lowering import Training, lower
from edgetuner.peft.program import Program

# Of the largest logit. Folding batch norm into the kernel rounds once more, some 1e-6 of it in
# single precision; a wrong capture is off by far more than this.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 5e-2


class LeanLoraEdge(LoraEdge):
    """A `LoraEdge` that keeps for the backward pass what `peft.lean` says, as far as it can.

    The module is captured once. Whatever of it has no lean form runs under plain autograd, and
    `program.steps` say why; a module that cannot be captured at all, or whose capture answers
    differently, runs as in `LoraEdge`, and `why` says so.

    Args:
        base: as in `LoraEdge`.
        example: input of the shape that will come, `(N, C, T)`; any N will do later.
        q_dtype: what `q` is kept in: None as it is, or `torch.float16`.
        eight_bits: keep the derivative of smooth activations in eight bits; see
            `peft.activation.Smooth` for its error.
        dtype: what maps are computed in: None for the base's own, or `torch.bfloat16`. Whatever is
            trained, and the kernels that are put together from it, keep their own.
        apart: let a `PrefixCache` hold the frozen half of the first trained layers, too.
        options: of `LoraEdge`.

    Attributes:
        program: the captured module, or None.
        why: what prevents it; empty if nothing does.

    Raises:
        ModelError: as in `LoraEdge`.
    """

    def __init__(
        self,
        base: nn.Module,
        example: Tensor,
        *,
        q_dtype: torch.dtype | None = None,
        eight_bits: bool = False,
        dtype: torch.dtype | None = None,
        apart: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(base, **options)
        training = Training(
            self.base,
            updates={id(self._parameter(f"{n}.weight")): u for n, u in self._by_layer().items()},
            extras={id(self._parameter(name)): p for name, p in self._extras()},
            alpha=self.alpha,
            q_dtype=q_dtype,
            eight_bits=eight_bits,
            dtype=dtype,
            apart=apart,
        )
        self.program: Program | None = None
        self.why = ""
        try:
            program = lower(trace(self.base, example), training)
            _check(program, self.base, example, dtype or example.dtype)
            self.program = program
        except ModelError as error:
            self.why = str(error)

    def forward(self, x: Tensor) -> Tensor:
        """What the base would answer with the update in its kernels."""
        return super().forward(x) if self.program is None else self.program(x)


@torch.no_grad()
def _check(program: Program, base: nn.Module, example: Tensor, dtype: torch.dtype) -> None:
    """Before the first step the program has to answer as the base does."""
    theirs = base(example)
    try:
        ours = program(example)
    except (RuntimeError, TypeError, ValueError) as error:
        remedy = f"its lean form fails: {error}"
        raise ModelError("cannot be made lean", field="base", remedy=remedy) from error
    tolerance = _TOLERANCE.get(dtype, _HALF_TOLERANCE)
    distance = (ours - theirs).abs().max()
    if not bool(distance <= tolerance * theirs.abs().max()):
        remedy = "its forward pass depends on more than its input"
        raise ModelError("answers otherwise", field="base", value=float(distance), remedy=remedy)
