"""From a user's module to a graph of its operations, in a form that a lowering can read.

`torch.fx` records which operations a forward pass consists of. What has several spellings gets one:
a functional call becomes the module it stands for, what does nothing in evaluation mode vanishes,
and what works in place is seen as the new value that it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node, Tracer
from torch.fx.node import map_arg
from torch.nn import functional

from edgetuner.errors import ModelError

# What may be raised where a stand-in for a tensor is taken for one.
UNTRACEABLE = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    AssertionError,
)
_CONV = ("weight", "bias", "stride", "padding", "dilation", "groups")
_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_DROPOUT = ("p", "training", "inplace")
_MODULES: dict[Any, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    torch.relu: (nn.ReLU, ()),
    "relu": (nn.ReLU, ()),
    "relu_": (nn.ReLU, ()),
    functional.relu: (nn.ReLU, ("inplace",)),
    functional.relu6: (nn.ReLU6, ("inplace",)),
    functional.hardtanh: (nn.Hardtanh, ("min_val", "max_val", "inplace")),
    functional.leaky_relu: (nn.LeakyReLU, ("negative_slope", "inplace")),
    functional.hardsigmoid: (nn.Hardsigmoid, ("inplace",)),
    functional.gelu: (nn.GELU, ("approximate",)),
    functional.silu: (nn.SiLU, ("inplace",)),
    functional.hardswish: (nn.Hardswish, ("inplace",)),
    functional.max_pool1d: (nn.MaxPool1d, _MAX),
    functional.max_pool2d: (nn.MaxPool2d, _MAX),
    torch.max_pool1d: (nn.MaxPool1d, _MAX[:-1]),
    torch.max_pool2d: (nn.MaxPool2d, _MAX[:-1]),
    functional.avg_pool1d: (nn.AvgPool1d, _AVG),
    functional.avg_pool2d: (nn.AvgPool2d, (*_AVG, "divisor_override")),
    functional.adaptive_avg_pool1d: (nn.AdaptiveAvgPool1d, ("output_size",)),
    functional.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
}
_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


_SHAPE, _DTYPE = "edgetuner.shape", "edgetuner.dtype"


def trace(base: nn.Module, example: Tensor) -> Graph:
    """The operations of a module in evaluation mode, each with the shape that the example gives.

    Raises:
        ModelError: its forward pass decides by the values of its input, or writes in place into a
            view of something else.
    """
    try:
        graph = Tracer().trace(base)
        with torch.no_grad():
            _Shapes(GraphModule(base, graph)).run(example)
    except UNTRACEABLE as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            "cannot be traced",
            field="base",
            value=reason[0],
            remedy="keep decisions by shape or value out of forward",
        ) from error
    for node in list(graph.nodes):
        if _does_nothing(node, base):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _see_new_values(graph, base)
    return graph


def module_at(node: Node, base: nn.Module) -> nn.Module | None:
    """The module that a node calls, or that its functional call stands for, if there is one."""
    if node.op == "call_module":
        module = base.get_submodule(str(node.target))
        return None if any(getattr(module, hooks) for hooks in _HOOKS) else module
    if node.op not in ("call_function", "call_method"):
        return None
    if node.target in (functional.conv1d, functional.conv2d, torch.conv1d, torch.conv2d):
        return _convolution(node, base)
    if node.target is functional.pad:
        return _padding(node)
    if node.target not in _MODULES or not node.args:
        return None
    make, names = _MODULES[node.target]
    options = dict(zip(names, node.args[1:], strict=False)) | _options(node)
    return None if _has_nodes(options) else make(**options)


def summands(node: Node) -> tuple[Node, Node] | None:
    """The two values of one shape that a node adds, if that is what it does."""
    if node.target not in _ADDS or node.kwargs or len(node.args) != 2:
        return None
    one, other = node.args
    if not isinstance(one, Node) or not isinstance(other, Node) or one is other:
        return None
    return (one, other) if shape(one) is not None and shape(one) == shape(other) else None


def shape(node: Node) -> torch.Size | None:
    """That of a tensor, at the example."""
    found: torch.Size | None = node.meta.get(_SHAPE)
    return found


def is_per_window(node: Node, windows: int) -> bool:
    """Whether a value is floats with a row for each of so many windows, at the example."""
    size, dtype = shape(node), node.meta.get(_DTYPE)
    if size is None or dtype is None or len(size) < 2:
        return False
    return size[0] == windows and bool(dtype.is_floating_point)


class _Shapes(Interpreter):
    """Notes the shape of every tensor; torch's own pass imports its symbolic algebra for more."""

    def run_node(self, node: Node) -> Any:
        result = super().run_node(node)
        if isinstance(result, Tensor):
            node.meta[_SHAPE], node.meta[_DTYPE] = result.shape, result.dtype
        return result


def _convolution(node: Node, base: nn.Module) -> nn.Module | None:
    """A module around the kernel of a functional convolution, sharing its memory."""
    options = dict(zip(_CONV, node.args[1:], strict=False)) | _options(node)
    tensors = [options.pop("weight"), options.pop("bias", None)]
    weight, bias = (_parameter(t, base) if isinstance(t, Node) else t for t in tensors)
    if not isinstance(weight, nn.Parameter) or not isinstance(bias, nn.Parameter | None):
        return None
    if _has_nodes(options):
        return None
    groups = options.get("groups", 1)
    make: Callable[..., nn.Conv1d | nn.Conv2d] = nn.Conv1d if weight.ndim == 3 else nn.Conv2d
    conv = make(
        weight.shape[1] * groups,
        len(weight),
        tuple(weight.shape[2:]),
        bias=False,
        device="meta",
        **options,
    )
    conv.weight, conv.bias = weight, bias
    return conv.eval()


def _padding(node: Node) -> nn.Module | None:
    options = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | _options(node)
    widths, value = options["pad"], options.get("value")
    if options.get("mode", "constant") != "constant" or _has_nodes(options):
        return None
    if len(widths) not in (2, 4):
        return None
    make = nn.ConstantPad1d if len(widths) == 2 else nn.ConstantPad2d
    return make(tuple(widths), value or 0.0)


def _parameter(node: Node, base: nn.Module) -> Any:
    if node.op != "get_attr":
        return None
    return operator.attrgetter(str(node.target))(base)


def _has_nodes(options: dict[str, Any]) -> bool:
    """Whether an option is told by the input."""
    found: list[Node] = []
    map_arg(options, lambda node: found.append(node))
    return bool(found)


def _options(node: Node) -> dict[str, Any]:
    return {name: value for name, value in node.kwargs.items() if name != "input"}


def _see_new_values(graph: Graph, base: nn.Module) -> None:
    """Whoever reads a value after it was overwritten reads the one that was written."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not is_in_place(node, base) or not node.args:
            continue
        written = node.args[0]
        if not isinstance(written, Node):
            continue
        if written.op == "get_attr" or _is_view(written):
            raise ModelError(
                "works in place on what others see",
                field="base",
                value=node.name,
                remedy="work on a copy",
            )
        for user in [user for user in written.users if order[user] > order[node]]:
            user.replace_input_with(written, node)


def is_in_place(node: Node, base: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(base.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    named = name.endswith("_") and not name.startswith("_")
    return (
        named
        or node.target in (operator.iadd, operator.imul, operator.isub, operator.setitem)
        or bool(node.kwargs.get("inplace", False))
    )


def _is_view(node: Node) -> bool:
    views = ("view", "reshape", "flatten", "transpose", "permute", "expand", "unsqueeze", "squeeze")
    parts = ("chunk", "split", "narrow", "select", "getitem", "unbind", "t", "movedim")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in (*views, *parts)


def _does_nothing(node: Node, base: nn.Module) -> bool:
    if not node.args:
        return False
    if node.op == "call_module":
        module = module_at(node, base)
        return isinstance(module, (nn.Identity, *_DROPOUTS)) and not module.training
    if node.target is functional.dropout:
        options = dict(zip(_DROPOUT, node.args[1:], strict=False)) | _options(node)
        return options.get("training", True) is False
    return False
