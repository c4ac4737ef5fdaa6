"""A captured module as a list of steps, each of which can be told, cut off, or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from edgetuner.peft.capture import is_per_window, shape
from edgetuner.peft.layout import maps_innermost

Values = dict[Node, Any]

EXAMPLES = 2  # windows that a module is captured with
BY_BATCH = "normalises by the batch"


@dataclass(eq=False)
class Step:
    """One value from others.

    Attributes:
        node: the value it gives.
        name: of the layer or operation, for people.
        run: of the arguments' values.
        args, kwargs: with a `Node` wherever a value belongs.
        trained: a gradient is wanted of it, or of something before it.
        why: why autograd keeps what it always does of this step; empty where it is lean.
        dtype: what floats among the arguments are turned into, None for what they are.
    """

    node: Node
    name: str
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    trained: bool
    why: str = ""
    dtype: torch.dtype | None = None

    @property
    def inputs(self) -> list[Node]:
        """Values it needs."""
        needed: list[Node] = []
        map_arg((self.args, self.kwargs), lambda node: needed.append(node))
        return needed


@dataclass(frozen=True, eq=False)
class Attribute:
    """A tensor or other attribute of a module, as it is by then: it may have been moved."""

    module: nn.Module
    name: str

    def __call__(self) -> Any:
        return getattr(self.module, self.name)


@dataclass(eq=False)
class Program:
    """Steps in order, from one tensor to another.

    Values are forgotten after their last use, so that autograd alone decides what stays.

    Attributes:
        source, result: the tensor it takes, and the one it gives.
        steps: in order.
        dtype: of the result, None as it comes.
        coarse: values that may be given to `resume` in half precision; they are kept as they are.
    """

    source: Node
    result: Node
    steps: tuple[Step, ...]
    dtype: torch.dtype | None = None
    coarse: frozenset[Node] = frozenset()

    def __call__(self, x: Tensor) -> Tensor:
        """What the captured module answers."""
        values = {self.source: _laid_out(x)}
        _run(self._whole, values)
        logits: Tensor = _in(self.dtype, values[self.result])
        return logits

    def walk(self, x: Tensor) -> Iterator[Step]:
        """As a call, step by step: yields each after it was taken."""
        values = {self.source: _laid_out(x)}
        for pair in self._whole:
            _run([pair], values)
            yield pair[0]

    @property
    def frozen(self) -> tuple[Step, ...]:
        """The prefix: steps that no training changes."""
        return tuple(step for step in self.steps if not step.trained)

    @cached_property
    def resumed(self) -> tuple[Step, ...]:
        """The trained steps, and those before them that give no tensor of windows.

        A weight or a size is had again for nothing, and has no row for each window.
        """
        steps: list[Step] = []
        needed = {self.result}
        for step in reversed(self.steps):
            late = step.node in needed and shape(step.node) is None
            if step.trained or late or isinstance(step.run, Attribute):
                steps.append(step)
                needed.update(step.inputs)
        return tuple(step for step in steps[::-1] if step.trained or step.node in needed)

    @cached_property
    def border(self) -> tuple[Node, ...]:
        """Values of the prefix, or the input, that the resumed steps need."""
        given = {step.node for step in self.resumed}
        needed = [node for step in self.resumed for node in step.inputs if node not in given]
        if self.result not in given:
            needed.append(self.result)
        return tuple(dict.fromkeys(needed))

    @property
    def uncacheable(self) -> str:
        """Why the border cannot be kept by window; empty if it can."""
        for step in self.frozen:
            if step.why == BY_BATCH:
                return f"{step.name} {BY_BATCH}"
        for node in self.border:
            if not is_per_window(node, EXAMPLES):
                return f"{node.name} is no tensor of floats with a row for each window"
        return "" if self.frozen else "nothing but the input is frozen"

    def given(self, border: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Values at the border in a type, but for those that may stay in half precision."""
        pairs = zip(self.border, border, strict=True)
        return [value if node in self.coarse else value.to(dtype) for node, value in pairs]

    def prefix(self, x: Tensor) -> tuple[Tensor, ...]:
        """The values at the border, of an input `(N, C, T)`."""
        values = {self.source: _laid_out(x)}
        _run(self._before, values)
        return tuple(values[node] for node in self.border)

    def resume(self, border: Iterable[Tensor]) -> Tensor:
        """The answer from the values at the border."""
        values = dict(zip(self.border, border, strict=True))
        _run(self._after, values)
        logits: Tensor = _in(self.dtype, values[self.result])
        return logits

    @cached_property
    def _whole(self) -> list[tuple[Step, list[Node]]]:
        return _with_deaths(self.steps, (self.result,))

    @cached_property
    def _before(self) -> list[tuple[Step, list[Node]]]:
        return _with_deaths(self.frozen, self.border)

    @cached_property
    def _after(self) -> list[tuple[Step, list[Node]]]:
        return _with_deaths(self.resumed, (self.result,))


def _laid_out(x: Tensor) -> Tensor:
    # once, and not in each step that reads it
    return maps_innermost(x) if x.ndim in (3, 4) else x


def _with_deaths(steps: Iterable[Step], wanted: Iterable[Node]) -> list[tuple[Step, list[Node]]]:
    """Each step with the values that nobody needs after it."""
    needed = set(wanted)
    pairs = []
    for step in reversed(list(steps)):
        last = {node for node in (*step.inputs, step.node) if node not in needed}
        needed |= last
        pairs.append((step, list(last)))
    return pairs[::-1]


def _run(steps: Iterable[tuple[Step, list[Node]]], values: Values) -> None:
    for step, deaths in steps:
        values[step.node] = _evaluate(step, values)
        for node in deaths:
            del values[node]


def _evaluate(step: Step, values: Values) -> Any:
    # a function of its own: its variables would hold the arguments beyond their last use
    def value(node: Node) -> Any:
        return _in(step.dtype, values[node])

    args, kwargs = map_arg((step.args, step.kwargs), value)
    return step.run(*args, **kwargs)


def _in(dtype: torch.dtype | None, value: Any) -> Any:
    floats = dtype is not None and isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if floats else value
