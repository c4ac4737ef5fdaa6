"""The frozen prefix of an adapter, run once per window (Skip2-LoRA, arXiv 2410.21073).

What lies before the first trained layer gives the same values at every step. They are kept in
float16 by the id of their window, so raw windows cannot be augmented at random. Rounded once, a
value is off by at most 2^-11 of itself, or by 2^-25 if that is more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgetuner.errors import ModelError, UsageError
from edgetuner.peft.lean import LeanConvolution
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.mixture import Responses
from edgetuner.peft.pointwise import LeanPointwise
from edgetuner.peft.program import Attribute, Program, Step

FILL = 8  # windows run at once: the maps of early layers are large, and this happens once


class PrefixCache:
    """Values at the border of an adapter's frozen prefix.

    Args:
        adapter: in its lean form.
        windows: how many there will be at most.

    Attributes:
        key: hash of the prefix; a cache of another key is worth nothing to this adapter.

    Raises:
        ModelError: the adapter has no lean form, or what lies at the border is no matter of single
            windows.
    """

    def __init__(self, adapter: LeanLoraEdge, windows: int) -> None:
        self._program = _program(adapter)
        if self._program.uncacheable:
            raise ModelError("cannot be cached", field="base", remedy=self._program.uncacheable)
        self._windows = windows
        self._rows: dict[int, int] = {}  # of each id
        self._pools: list[Tensor] = []  # (windows, *L, C) of each border
        self.key = prefix_key(adapter)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Memory of what is kept, and of what is still to come."""
        return sum(pool.nbytes for pool in self._pools)

    @torch.no_grad()
    def border(self, ids: Sequence[int], x: Tensor) -> list[Tensor]:
        """What `Program.resume` takes, for windows `x (N, C, T)` of these ids.

        Only windows never seen before are run. An id stands for one window for ever.

        Raises:
            UsageError: more windows than the cache was made for.
        """
        fresh = [row for row, number in enumerate(ids) if number not in self._rows]
        fresh = [row for row in fresh if ids.index(ids[row]) == row]  # each once
        for start in range(0, len(fresh), FILL):
            part = fresh[start : start + FILL]
            self._add([ids[row] for row in part], self._program.prefix(x[part]))
        rows = torch.tensor([self._rows[number] for number in ids], device=x.device)
        return self._program.given((pool[rows].movedim(-1, 1) for pool in self._pools), x.dtype)

    def _add(self, ids: Sequence[int], values: Sequence[Tensor]) -> None:
        start = len(self._rows)
        if start + len(ids) > self._windows:
            remedy = "make the cache for all of them"
            raise UsageError("too many", field="windows", value=start + len(ids), remedy=remedy)
        inner = [value.movedim(1, -1) for value in values]
        if not self._pools:
            self._pools = [
                value.new_empty(self._windows, *value.shape[1:], dtype=torch.float16)
                for value in inner
            ]
        for place, value in enumerate(inner):
            if not _fits_half(value):
                self._pools[place] = self._pools[place].to(value.dtype)
            self._pools[place][start : start + len(ids)] = value
        self._rows |= {number: start + row for row, number in enumerate(ids)}


def prefix_key(adapter: LeanLoraEdge) -> str:
    """Hash of all that the values at the border depend on beside the window.

    Raises:
        ModelError: the adapter has no lean form.
    """
    program = _program(adapter)
    # what the operations are, with their settings, and in what precision
    digest = hashlib.sha256(f"{program.source.graph}{adapter.base}{adapter.dtype}".encode())
    digest.update(repr([node.name for node in program.border]).encode())
    for step in program.frozen:
        for tensor in _tensors(step):
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _program(adapter: LeanLoraEdge) -> Program:
    if adapter.program is None:
        raise ModelError("has no prefix of its own", field="base", remedy=adapter.why)
    return adapter.program


def _tensors(step: Step) -> list[Tensor]:
    """All that a frozen step reads beside its arguments."""
    run = step.run
    if isinstance(run, Attribute):
        value = run()
        return [value] if isinstance(value, Tensor) else []
    modules = [run] if isinstance(run, nn.Module) else []
    if isinstance(run, LeanConvolution):
        modules.append(run.conv)
    if isinstance(run, Responses):
        suffix = [] if run.layer.update is None else [run.layer.update.suffix]
        return [run.layer.conv.weight, *suffix]
    if isinstance(run, LeanConvolution | LeanPointwise) and run.norm is not None:
        modules.append(run.norm.module)
    return [tensor for module in modules for tensor in module.state_dict().values()]


def _fits_half(value: Tensor) -> bool:
    return bool(value.abs().max() <= torch.finfo(torch.float16).max)
