"""The gradient of one micro-batch, added to what is there: as it comes, or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# Logits of windows, or of their values at the border of the prefix; see `peft.program`.
Forward = Callable[[Sequence[Tensor]], Tensor]
_WARM_UP = 3  # passes before a capture, as torch asks for: libraries choose their kernels then


class Gradient:
    """Adds the gradient of a share of a batch's loss to the `.grad` of whatever is trained.

    Args:
        forward: logits `(n, K)`.
        batch: windows of the whole batch, over which the loss is a mean.
        label_smoothing: share of each label that goes to all classes alike.
    """

    def __init__(self, forward: Forward, batch: int, label_smoothing: float) -> None:
        self._forward = forward
        self._batch = batch
        self._label_smoothing = label_smoothing

    def add(self, inputs: Sequence[Tensor], y: Tensor) -> Tensor:
        """The share of the loss, a scalar, for inputs and labels `(n,)` of some of its windows."""
        share = torch.nn.functional.cross_entropy(
            self._forward(inputs), y, label_smoothing=self._label_smoothing, reduction="sum"
        )
        share = share / self._batch
        share.backward()  # type: ignore[no-untyped-call]
        return share.detach()


class GraphedGradient(Gradient):
    """The same, recorded once and launched as one: its thousand small kernels start together.

    Shapes are those of the first call; a call of other shapes is taken as it comes.

    Args:
        trained: what has a gradient, on a CUDA device.
    """

    def __init__(
        self, forward: Forward, batch: int, label_smoothing: float, trained: Sequence[nn.Parameter]
    ) -> None:
        super().__init__(forward, batch, label_smoothing)
        self._trained = trained
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []

    def add(self, inputs: Sequence[Tensor], y: Tensor) -> Tensor:
        given = [*inputs, y]
        if self._graph is None:
            self._graph = self._capture(given)
        if [tensor.shape for tensor in given] != [tensor.shape for tensor in self._inputs]:
            return super().add(inputs, y)
        for place, tensor in zip(self._inputs, given, strict=True):
            place.copy_(tensor)
        self._graph.replay()
        return self._share.clone()  # the next replay overwrites it

    def _capture(self, given: list[Tensor]) -> torch.cuda.CUDAGraph:
        self._inputs = [tensor.clone() for tensor in given]
        for weight in self._trained:  # the graph adds to these very tensors
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        before = [weight.grad.clone() for weight in self._trained if weight.grad is not None]
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                super().add(self._inputs[:-1], self._inputs[-1])
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._share = super().add(self._inputs[:-1], self._inputs[-1])
        for weight, gradient in zip(self._trained, before, strict=True):
            assert weight.grad is not None
            weight.grad.copy_(gradient)
        return graph
