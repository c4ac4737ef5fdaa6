"""The frozen prefix of an adapter, run once per window (Skip2-LoRA, arXiv 2410.21073).

What lies before the first trained layer gives the same values at every step. They are kept in
float16 by the id of their window, so raw windows cannot be augmented at random. Rounded once, a
value is off by at most 2^-11 of itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgetuner.errors import ModelError
from edgetuner.peft.lean import LeanConvolution
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.lowering import Attribute
from edgetuner.peft.pointwise import LeanPointwise
from edgetuner.peft.program import Program, Step


class PrefixCache:
    """Values at the border of an adapter's frozen prefix.

    Args:
        adapter: in its lean form.

    Attributes:
        key: hash of the prefix; a cache of another key is worth nothing to this adapter.

    Raises:
        ModelError: the adapter has no lean form.
    """

    def __init__(self, adapter: LeanLoraEdge) -> None:
        if adapter.program is None:
            raise ModelError("has no prefix of its own", field="base", remedy=adapter.why)
        self._program = adapter.program
        self._values: dict[int, tuple[Tensor, ...]] = {}
        self.key = prefix_key(adapter.program)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Memory of what is kept."""
        return sum(value.nbytes for values in self._values.values() for value in values)

    @torch.no_grad()
    def border(self, ids: Sequence[int], x: Tensor) -> list[Tensor]:
        """What `Program.resume` takes, for windows `x (N, C, T)` of these ids.

        Only windows never seen before are run. An id stands for one window for ever.
        """
        rows = [row for row, number in enumerate(ids) if number not in self._values]
        if rows:
            fresh = [_halved(value) for value in self._program.prefix(x[rows])]
            for place, row in enumerate(rows):
                self._values[ids[row]] = tuple(value[place].clone() for value in fresh)
        by_window = [self._values[number] for number in ids]
        return [torch.stack(values).to(x.dtype) for values in zip(*by_window, strict=True)]


def prefix_key(program: Program) -> str:
    """Hash of all that the values at the border depend on beside the window."""
    digest = hashlib.sha256(repr([node.name for node in program.border]).encode())
    for step in program.frozen:
        digest.update(repr((step.name, step.args, step.kwargs)).encode())
        for tensor in _tensors(step):
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(step: Step) -> list[Tensor]:
    """All that a frozen step reads beside its arguments."""
    run = step.run
    if isinstance(run, Attribute):
        value = run()
        return [value] if isinstance(value, Tensor) else []
    modules = [run] if isinstance(run, nn.Module) else []
    if isinstance(run, LeanConvolution):
        modules.append(run.conv)
    if isinstance(run, LeanConvolution | LeanPointwise) and run.norm is not None:
        modules.append(run.norm.module)
    return [tensor for module in modules for tensor in module.state_dict().values()]


def _halved(value: Tensor) -> Tensor:
    """In float16, unless that cannot hold it."""
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value
