"""What autograd keeps for the backward pass, measured where it is put aside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Saved:
    """Memory put aside so far, each block of it counted once, and weights not at all."""

    def __init__(self, *modules: nn.Module) -> None:
        self._weights = {
            tensor.untyped_storage().data_ptr()
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
        }
        self._blocks: dict[int, torch.UntypedStorage] = {}  # held: an address would come again

    @property
    def bytes(self) -> int:
        """The size of all blocks."""
        return sum(block.nbytes() for block in self._blocks.values())

    def add(self, tensor: Tensor) -> Tensor:
        """Counts the block behind a tensor, all of which the tensor keeps alive."""
        block = tensor.untyped_storage()
        if block.data_ptr() not in self._weights:
            self._blocks[block.data_ptr()] = block
        return tensor


@contextmanager
def saved_for_backward(*modules: nn.Module) -> Iterator[Saved]:
    """Measures the forward passes within; the weights of `modules` do not count.

    What a custom `autograd.Function` hands to `save_for_backward` is seen too.
    """
    saved = Saved(*modules)
    with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
        yield saved
