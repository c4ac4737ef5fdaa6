"""LoRA-Edge in its lean form: the same adapter, whose forward pass keeps next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgetuner.errors import ModelError
from edgetuner.peft.capture import UNTRACEABLE, trace
from edgetuner.peft.layout import maps_innermost
from edgetuner.peft.lora_edge import LoraEdge
from edgetuner.peft.lowering import Training, lower
from edgetuner.peft.program import EXAMPLES, Program

# Of the largest logit. Folding batch norm into the kernel rounds once more, some 1e-6 of it in
# single precision; a wrong capture is off by far more than this.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 5e-2
# Of the gradient's norm: an element near the end of a piece may fall on its other side.
_GRADIENT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 3e-2}
_HALF_GRADIENT_TOLERANCE = 0.4
_GRADIENT = "has another gradient"
_ELSEWHERE = 1.03  # times the windows: far from every kink that they lay on
_NUDGE = 0.01  # what is trained is moved by for the check, so that it shows where it goes


class LeanLoraEdge(LoraEdge):
    """A `LoraEdge` that keeps for the backward pass what `peft.lean` says, as far as it can.

    The module is captured once. Whatever of it has no lean form runs under plain autograd, and
    `program.steps` say why; a module that cannot be captured at all, or whose capture answers
    differently, runs as in `LoraEdge`, and `why` says so.

    Args:
        base: as in `LoraEdge`.
        example: input of the shape that will come, `(N, C, T)`; one window is enough, and any N
            will do later.
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
        dtype: as given.

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
        for update in self._by_layer().values():  # as the kernels are put together
            update.suffix = maps_innermost(update.suffix)
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
        self.dtype, self.q_dtype, self.eight_bits = dtype, q_dtype, eight_bits
        self.program: Program | None = None
        self.why = ""
        # two that differ, or a row could be taken for a matter of all windows
        windows = torch.cat([example[:1], example[:1].flip(-1) + 1])
        assert len(windows) == EXAMPLES
        try:
            program = lower(trace(self.base, windows), training)
            self._check(program, windows)
            self.program = program
        except ModelError as error:
            self.why = str(error)
        except UNTRACEABLE as error:
            self.why = f"cannot be made lean: {type(error).__name__}: {error}"

    @property
    def not_lean(self) -> dict[str, str]:
        """Why, by name, for each step that is left to plain autograd; all of them as `base`."""
        if self.program is None:
            return {"base": self.why}
        steps = self.program.steps
        return {step.name: step.why for step in steps if step.trained and step.why}

    def forward(self, x: Tensor) -> Tensor:
        """What the base would answer with the update in its kernels."""
        return super().forward(x) if self.program is None else self.program(x)

    def _check(self, program: Program, windows: Tensor) -> None:
        """A program has to answer as the plain form does, and to give its gradients.

        Where a value lies on the kink of an activation, rounding decides which way the gradient
        goes, and two right forms may differ. That is a matter of chance, so other windows are asked
        before it is held against the program.

        Raises:
            ModelError: it does not.
        """
        try:
            self._compare_on(program, windows)
        except ModelError as error:
            if error.problem != _GRADIENT:
                raise
            self._compare_on(program, _ELSEWHERE * windows)

    def _compare_on(self, program: Program, windows: Tensor) -> None:
        trained = [weight for group in self.groups().values() for weight in group]
        with _moved(trained), _in_full_precision():
            theirs, their_gradient = _both(super().forward, windows, trained)
            ours, our_gradient = _both(program, windows, trained)
        dtype = self.dtype or windows.dtype
        _compare("answers otherwise", ours, theirs, _TOLERANCE.get(dtype, _HALF_TOLERANCE))
        tolerance = _GRADIENT_TOLERANCE.get(dtype, _HALF_GRADIENT_TOLERANCE)
        if self.eight_bits or self.q_dtype is not None:
            tolerance = max(tolerance, _GRADIENT_TOLERANCE[torch.float32])
        _compare(_GRADIENT, our_gradient, their_gradient, tolerance)


def _both(
    forward: Callable[[Tensor], Tensor], x: Tensor, trained: list[nn.Parameter]
) -> tuple[Tensor, Tensor]:
    """The logits, and the gradient of their weighted sum as one vector."""
    with torch.enable_grad():
        logits = forward(x)
        weights = torch.linspace(-1, 1, logits.numel(), device=x.device).reshape(logits.shape)
        loss = (logits * weights).sum()
        found = torch.autograd.grad(loss, trained, allow_unused=True)
    gradients = zip(found, trained, strict=True)
    rows = [torch.zeros_like(w) if g is None else g for g, w in gradients]  # type: ignore[redundant-expr]
    return logits.detach(), torch.cat([row.flatten() for row in rows])


def _compare(problem: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    if ours.shape == theirs.shape:
        distance = (ours - theirs).norm()
        if bool(distance <= tolerance * theirs.norm()):
            return
        value: Any = float(distance / theirs.norm())
    else:
        value = tuple(ours.shape)
    remedy = "its forward pass depends on more than its input, or on what is trained in other ways"
    raise ModelError(problem, field="base", value=value, remedy=remedy)


@contextmanager
def _moved(trained: list[nn.Parameter]) -> Iterator[None]:
    """At another place than step 0, for as long as it lasts."""
    before = [weight.detach().clone() for weight in trained]
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trained:
            weight.add_(torch.randn(weight.shape, generator=draw).to(weight), alpha=_NUDGE)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(trained, before, strict=True):
                weight.copy_(value)


@contextmanager
def _in_full_precision() -> Iterator[None]:
    """Without the short floats that a GPU takes for single precision, by default, to convolve."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
