"""From a graph of operations to a program whose steps keep as little as they can.

A convolution takes up what surrounds it: zero padding before it, and after it the batch norm, the
addition of a residual and the activation, as long as nobody else reads what lies between. What no
rule knows runs as it was, under plain autograd, and says so.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from edgetuner.errors import ModelError
from edgetuner.peft.activation import IDENTITY, Activation, activation_of
from edgetuner.peft.capture import is_in_place, module_at, shape, summands
from edgetuner.peft.geometry import Geometry
from edgetuner.peft.lean import LeanConvolution
from edgetuner.peft.lora_edge import LowRankUpdate
from edgetuner.peft.mixture import Mixture, Responses
from edgetuner.peft.norm import Norm
from edgetuner.peft.pointwise import LeanPointwise
from edgetuner.peft.pooling import LeanAvgPool, LeanMaxPool, mean_pool
from edgetuner.peft.program import BY_BATCH, Attribute, Program, Step

# Operations of which autograd keeps no feature maps.
_SHAPES = ("view", "reshape", "flatten", "transpose", "permute", "expand", "unsqueeze", "squeeze")
_PARTS = ("chunk", "split", "getitem", "getattr", "size", "dim", "contiguous", "cat", "movedim")
_SUMS = ("add", "iadd", "sub", "mean", "sum", "neg")
_KEEPS_NOTHING = {*_SHAPES, *_PARTS, *_SUMS}
_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad1d, nn.ZeroPad2d)


@dataclass(frozen=True, eq=False)
class Training:
    """What is trained of a base, and how it is to be kept.

    Attributes:
        base: frozen, in evaluation mode.
        updates: by the identity of the kernel that each belongs to.
        extras: further trainables by the identity of the parameter that each stands for.
        alpha, q_dtype: see `LeanConvolution`.
        eight_bits: see `activation.Smooth`.
        dtype: what the lean steps compute in, None for the base's own; the others in the base's.
        apart: take a trained convolution of a frozen input in two steps, of which the first is
            frozen too (`peft.mixture`), so that it can be cached.
    """

    base: nn.Module
    updates: dict[int, LowRankUpdate]
    extras: dict[int, nn.Parameter]
    alpha: float = 1.0
    q_dtype: torch.dtype | None = None
    eight_bits: bool = False
    dtype: torch.dtype | None = None
    apart: bool = False

    def touches(self, parameter: Tensor | None) -> bool:
        """Whether a parameter is not used as it is."""
        return id(parameter) in self.updates or id(parameter) in self.extras

    def stand_in(self, parameter: Tensor) -> StandIn:
        """What stands for a parameter that is trained."""
        update, extra = (kind.get(id(parameter)) for kind in (self.updates, self.extras))
        return StandIn(parameter, self.alpha, update, extra)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class StandIn:
    """A parameter as the training has it at present, differentiable in what is trained."""

    parameter: Tensor
    alpha: float
    update: LowRankUpdate | None
    extra: nn.Parameter | None

    def __call__(self) -> Tensor:
        if self.update is None:
            return self.parameter if self.extra is None else self.extra
        delta: Tensor = self.update()
        return (self.parameter + self.alpha * delta).to(self.parameter.dtype)


@dataclass(frozen=True, eq=False)
class Replaced:
    """A module with what is trained in the place of its own parameters."""

    module: nn.Module
    stand_ins: dict[str, StandIn]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now = {name: stand_in() for name, stand_in in self.stand_ins.items()}
        return torch.func.functional_call(self.module, now, args, kwargs)


@dataclass(frozen=True)
class OnACopy:
    """An operation that overwrites its first argument."""

    run: Callable[..., Any]

    def __call__(self, first: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.run(first.clone(), *args, **kwargs)


@dataclass(frozen=True)
class Method:
    """A method of its first argument."""

    name: str

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(tensor, self.name)(*args, **kwargs)


def lower(graph: Graph, training: Training) -> Program:
    """The program of a graph that `capture.trace` made of `training.base`."""
    return _Lowering(graph, training).program()


@dataclass
class _Lowering:
    graph: Graph
    training: Training
    taken: set[Node] = field(default_factory=set)

    def program(self) -> Program:
        nodes = list(self.graph.nodes)
        source = next(node for node in nodes if node.op == "placeholder")
        result = next(node for node in nodes if node.op == "output").args[0]
        if not isinstance(result, Node):
            remedy = "return the logits alone"
            raise ModelError("not one tensor", field="base", value=str(result), remedy=remedy)
        chains = self._chains(nodes)
        steps = []
        trained: set[Node] = set()
        for node in nodes:
            if node.op == "output" or node is source or (node in self.taken and node not in chains):
                continue
            step = chains.get(node) or self._alone(node)
            for part in self._parts(step, trained):
                part.trained = part.trained or not trained.isdisjoint(part.inputs)
                if part.trained:
                    trained.add(part.node)
                steps.append(part)
        mixtures = (step for step in steps if isinstance(step.run, Mixture))
        return Program(
            source,
            result,
            _alive(steps, result),
            dtype=self.own_dtype,
            coarse=frozenset(q for step in mixtures for q in step.args[1:]),
        )

    @property
    def own_dtype(self) -> torch.dtype | None:
        """That of the base, if the lean steps compute in another."""
        return None if self.training.dtype is None else next(self.training.base.parameters()).dtype

    def _parts(self, step: Step, trained: set[Node]) -> list[Step]:
        """A convolution that is trained behind a frozen input in two, if wanted; else the step."""
        layer, wanted = step.run, step.trained and self.training.apart
        if not wanted or not isinstance(layer, LeanConvolution) or step.args[0] in trained:
            return [step]
        if layer.update is not None and layer.geometry.groups != 1:
            return [step]  # a `q` of each group is more than the input
        source, *residual = step.args
        first, call = Responses(layer), self.graph.call_function
        both = call(first.__call__, (source,))
        kinds = 1 if layer.update is None else 2
        both.meta = dict(step.node.meta)  # its shape, too, is that of the result
        parts = [call(operator.getitem, (both, kind)) for kind in range(kinds)]
        for part in parts:
            part.meta = both.meta
        halves = [Step(both, f"{step.name}, once a window", first, (source,), {}, False)]
        halves += [Step(p, p.name, operator.getitem, p.args, {}, False) for p in parts]
        options = dict(zip(["residual"], residual, strict=False))
        return [*halves, Step(step.node, step.name, Mixture(layer), (*parts,), options, True)]

    def _chains(self, nodes: list[Node]) -> dict[Node, Step]:
        """By its last node, every convolution, then every other batch norm, and what it takes up.

        From the last to the first: of two convolutions that meet in a sum the later one takes it
        up, since the result of the other is there by then.
        """
        chains = {}
        for rule in (self._convolution, self._norm):
            for node in reversed(nodes):
                step = None if node in self.taken else rule(node)
                if step is not None:
                    chains[step.node] = step
        return chains

    def _convolution(self, node: Node) -> Step | None:
        conv = module_at(node, self.training.base)
        if not isinstance(conv, nn.Conv1d | nn.Conv2d) or self._no_lean_form(conv, node):
            return None
        source, geometry = self._padding(node, Geometry.of(conv), conv.weight.ndim - 2)
        tail, norm = self._followed_by_norm(node)
        tail, residual = self._followed_by_sum(tail)
        tail, activation = self._followed_by_activation(tail)
        update = self.training.updates.get(id(conv.weight))
        layer = LeanConvolution(
            conv,
            geometry,
            norm,
            activation,
            update,
            self.training.alpha,
            self.training.q_dtype,
            self.training.dtype,
        )
        beta = None if norm is None else norm.beta
        args = (source,) if residual is None else (source, residual)
        return Step(tail, _name(node), layer, args, {}, update is not None or beta is not None)

    def _norm(self, node: Node) -> Step | None:
        norm = self._fixed_norm(node)
        if norm is None or not node.args:
            return None
        tail, activation = self._followed_by_activation(node)
        layer = LeanPointwise(norm, activation, self.training.dtype)
        return Step(tail, _name(node), layer, (node.args[0],), {}, norm.beta is not None)

    def _padding(self, node: Node, geometry: Geometry, dims: int) -> tuple[Node, Geometry]:
        """Zeros before a convolution, which may do the same for others, as part of it."""
        source = node.args[0]
        assert isinstance(source, Node)
        module = module_at(source, self.training.base)
        if not isinstance(module, _PADS) or len(module.padding) > 2 * dims:
            return source, geometry
        if module.value != 0 or min(module.padding) < 0:
            return source, geometry
        inner = source.args[0]
        assert isinstance(inner, Node)
        return inner, geometry.padded(tuple(module.padding))

    def _followed_by_norm(self, tail: Node) -> tuple[Node, Norm | None]:
        user = self._only_user(tail)
        norm = None if user is None else self._fixed_norm(user)
        return (tail, None) if user is None or norm is None else (self._take(tail, user), norm)

    def _followed_by_sum(self, tail: Node) -> tuple[Node, Node | None]:
        user = self._only_user(tail)
        pair = None if user is None else summands(user)
        if user is None or pair is None:
            return tail, None
        return self._take(tail, user), pair[1] if pair[0] is tail else pair[0]

    def _followed_by_activation(self, tail: Node) -> tuple[Node, Activation]:
        user = self._only_user(tail)
        module = None if user is None else module_at(user, self.training.base)
        if user is None or module is None:
            return tail, IDENTITY
        activation = activation_of(module, eight_bits=self.training.eight_bits)
        if activation is None:
            return tail, IDENTITY
        return self._take(tail, user), activation

    def _only_user(self, node: Node) -> Node | None:
        users = list(node.users)
        return users[0] if len(users) == 1 and users[0] not in self.taken else None

    def _take(self, tail: Node, user: Node) -> Node:
        self.taken |= {tail, user}
        return user

    def _fixed_norm(self, node: Node) -> Norm | None:
        """The batch norm that a node calls, if it does not normalise by the batch."""
        module = module_at(node, self.training.base)
        if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            return None
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        if module.training or module.running_var is None or self.training.touches(module.weight):
            return None
        return Norm(module, self.training.extras.get(id(module.bias)))

    def _alone(self, node: Node) -> Step:
        """A step that takes up nothing else."""
        name, args, kwargs = _name(node), node.args, dict(node.kwargs)
        module = module_at(node, self.training.base)
        lean = None if module is None else self._lean(module, node)
        if lean is not None:
            return Step(node, name, lean, args[:1], {}, False)
        run, trained = self._plain(node)
        if args and node.op != "get_attr" and is_in_place(node, self.training.base):
            run = OnACopy(run)  # whoever reads later reads what it gives
        return Step(node, name, run, args, kwargs, trained, self._why(node, module), self.own_dtype)

    def _lean(self, module: nn.Module, node: Node) -> Callable[[Tensor], Tensor] | None:
        activation = activation_of(module, eight_bits=self.training.eight_bits)
        if activation is not None:
            return LeanPointwise(activation=activation, dtype=self.training.dtype)
        dims = len(_input_shape(node))
        if (type(module), dims) in ((nn.MaxPool1d, 3), (nn.MaxPool2d, 4)):
            assert isinstance(module, nn.MaxPool1d | nn.MaxPool2d)
            return None if module.return_indices else LeanMaxPool.of(module)
        if (type(module), dims) in ((nn.AvgPool1d, 3), (nn.AvgPool2d, 4)):
            assert isinstance(module, nn.AvgPool1d | nn.AvgPool2d)
            return LeanAvgPool.of(module)
        if (type(module), dims) in ((nn.AdaptiveAvgPool1d, 3), (nn.AdaptiveAvgPool2d, 4)):
            return mean_pool if module.output_size in (1, (1,), (1, 1)) else None
        return None

    def _plain(self, node: Node) -> tuple[Callable[..., Any], bool]:
        """The operation as it was, with what is trained in its place; and whether there is any."""
        training = self.training
        if node.op == "placeholder":
            raise ModelError("takes more than one tensor", field="base", value=node.name)
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            module = training.base.get_submodule(owner)
            tensor = getattr(module, name)
            touched = training.touches(tensor)
            return training.stand_in(tensor) if touched else Attribute(module, name), touched
        if node.op == "call_method":
            # a view of maps that lie innermost in memory has to be copied, which `view` refuses
            return Method("reshape" if node.target == "view" else str(node.target)), False
        if node.op == "call_module":
            module = training.base.get_submodule(str(node.target))
            stand_ins = {
                name: training.stand_in(parameter)
                for name, parameter in module.named_parameters()
                if training.touches(parameter)
            }
            return (Replaced(module, stand_ins) if stand_ins else module), bool(stand_ins)
        assert callable(node.target)
        return node.target, False

    def _no_lean_form(self, conv: nn.Module, node: Node) -> str:
        """Why a convolution cannot be lean; empty if it can."""
        if type(conv) not in (nn.Conv1d, nn.Conv2d):
            return "a convolution with a forward pass of its own"
        assert isinstance(conv, nn.Conv1d | nn.Conv2d)
        if conv.padding_mode != "zeros":
            return f"pads with {conv.padding_mode}, not with zeros"
        if len(_input_shape(node)) != conv.weight.ndim:
            return "no batch dimension"
        if self.training.touches(conv.bias):
            return "its bias is trained as that of another layer"
        return ""

    def _why(self, node: Node, module: nn.Module | None) -> str:
        """Why a step is left to plain autograd; empty where that keeps no feature maps."""
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op == "get_attr" or isinstance(module, nn.Linear | nn.Flatten | nn.Unflatten):
            return ""
        if node.op != "call_module" and name in _KEEPS_NOTHING:
            return ""
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            return self._no_lean_form(module, node)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return BY_BATCH
        kind = name if module is None else type(module).__name__
        if node.op == "call_module" and module is None:
            return "has hooks"
        return f"no lean form of {kind}"


def _alive(steps: list[Step], result: Node) -> tuple[Step, ...]:
    """Those that the result depends on."""
    needed, alive = {result}, []
    for step in reversed(steps):
        if step.node in needed:
            needed.update(step.inputs)
            alive.append(step)
    return tuple(alive[::-1])


def _input_shape(node: Node) -> torch.Size:
    source = node.args[0] if node.args else None
    found = shape(source) if isinstance(source, Node) else None
    return torch.Size() if found is None else found


def _name(node: Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name
