"""How much memory a computation holds while it runs, and how that grows with its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that lay out their second argument, the kernel, anew for the time that they take.
_WITH_WORKSPACE = ("aten::convolution", "aten::convolution_backward")


class Footprint(TorchDispatchMode):
    """Bytes of tensors made since it was entered that are alive during each operation.

    It counts whole blocks of memory, each once, on every device. What an operation holds only
    while it runs is not seen, but for the kernel of a convolution, which it lays out anew.

    Args:
        known: tensors that were there before.

    Attributes:
        alive: bytes, an entry for every operation.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: list[int] = []
        self._known = {_block(tensor).cdata for tensor in known}
        self._blocks: dict[int, tuple[StorageWeakRef, int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # nothing is compiled here, and to say so torch would import its compiler: 50 MB
        return False

    def __torch_dispatch__(
        self, operation: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                block = _block(tensor)
                if block.cdata not in self._known:
                    self._blocks[block.cdata] = block, tensor.untyped_storage().nbytes()
        self._blocks = {key: kept for key, kept in self._blocks.items() if not kept[0].expired()}  # type: ignore[no-untyped-call]
        workspace = args[1].nbytes if operation.name() in _WITH_WORKSPACE else 0
        self.alive.append(workspace + sum(size for _, size in self._blocks.values()))
        return out


class Growth:
    """A footprint as a function of the batch.

    Every operation's share is a line over the batch, since the tensors are; the footprint is the
    largest of them, which need not be the same for few windows and for many.

    Args:
        lines: (bytes, bytes a window) of each operation.
    """

    def __init__(self, lines: Iterable[tuple[int, int]]) -> None:
        self.lines = _upper_envelope(lines)

    @classmethod
    def of(cls, run: Callable[[int], Footprint], few: int, many: int) -> Growth:
        """From the footprints of two batches, of `few` and of `many` windows."""
        one, other = run(few).alive, run(many).alive
        if len(one) != len(other):  # the computation is another one for another batch
            return cls([(0, -(-max(other) // many))])
        slopes = [(b - a) / (many - few) for a, b in zip(one, other, strict=True)]
        return cls(
            (round(a - slope * few), round(slope)) for a, slope in zip(one, slopes, strict=True)
        )

    def bytes(self, windows: int) -> int:
        """Of a batch of so many windows."""
        return max((fixed + slope * windows for fixed, slope in self.lines), default=0)


def _block(tensor: Tensor) -> StorageWeakRef:
    # torch's own way to see that memory was freed: a storage takes no weak reference of Python's
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _upper_envelope(lines: Iterable[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Those that are the highest somewhere right of zero, the steeper the later."""
    envelope: list[tuple[int, int]] = []
    for fixed, slope in sorted(lines, key=lambda line: (line[1], line[0])):
        while envelope and envelope[-1][0] <= fixed:
            envelope.pop()
        envelope.append((fixed, slope))
    return tuple(envelope)


def step_footprint(
    forward: Callable[[Sequence[Tensor]], Tensor],
    inputs: Sequence[Tensor],
    trained: Sequence[Tensor],
    known: Iterable[Tensor],
) -> Footprint:
    """That of a forward and a backward pass, its inputs and the gradients included.

    Nothing is left in `.grad`.
    """
    footprint = Footprint([*known, *trained, *inputs])
    with torch.enable_grad(), footprint:
        gathered = [value.clone() for value in inputs]  # as they are for every micro-batch
        loss = forward(gathered).square().sum()
        torch.autograd.grad(loss, list(trained), allow_unused=True)
    return footprint
