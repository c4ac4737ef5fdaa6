"""From a bundle to a module: a backbone of our own, or a factory that the operator allows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edgetuner import models
from edgetuner.bundle import Backbone, Bundle, Description
from edgetuner.errors import ModelError


def build_module(bundle: Bundle, allowed_factories: Sequence[str] = ()) -> nn.Module:
    """The module of a bundle on the CPU, weights loaded, in eval mode.

    Args:
        bundle: verified, as `Bundle.load` returns it.
        allowed_factories: names of factories that the operator trusts.

    Raises:
        ModelError: the backbone is unknown or not allowed, or the weights are not its own.
    """
    module = new_module(bundle.manifest, allowed_factories)
    load_weights(module, bundle.weights)
    return module.eval()


def new_module(
    description: Description, allowed_factories: Sequence[str] = (), *, seed: int = 0
) -> nn.Module:
    """An untrained module of the described architecture, on the CPU, in training mode.

    A factory is called as `factory(channels, length, classes, **args)`, as the backbones are.

    Raises:
        ModelError: the backbone is unknown, not allowed, or gives no module with the head it names.
    """
    backbone = description.backbone
    sizes = (len(description.channels), description.length, len(description.classes))
    if backbone.name is not None:
        module = models.build(backbone.name, *sizes, backbone.args, seed=seed)
    else:
        module = _call(backbone, allowed_factories, sizes, seed)
    _check_head(module, backbone.head, len(description.classes))
    return module


def resolve_factory(name: str, allowed: Sequence[str]) -> Callable[..., nn.Module]:
    """Imports `package.module:callable`, but only if that exact name is in `allowed`.

    A bundle is data that somebody made; importing what it names would let it run any code here.

    Raises:
        ModelError: the name is not allowed, or there is no such callable.
    """
    if name not in allowed:
        raise ModelError(
            "is not an allowed factory",
            field="backbone.factory",
            value=name,
            remedy="if you trust it, add it to inference.allow_factories in the configuration, "
            "or name it with --allow-factory",
        )
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            "cannot be imported",
            field="backbone.factory",
            value=name,
            remedy=f"install the package that has it ({error})",
        ) from error
    if not callable(factory):
        raise ModelError("cannot be called", field="backbone.factory", value=name)
    resolved: Callable[..., nn.Module] = factory
    return resolved


def load_weights(module: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Loads a state dict of arrays; every key, shape and dtype must be the module's own.

    Raises:
        ModelError: the first key that is missing, unknown, or of another shape or dtype.
    """
    own = module.state_dict()
    for key in sorted(own.keys() ^ weights.keys()):
        problem = "is missing from the weights" if key in own else "is no weight of the module"
        raise ModelError(problem, field=f"weights.{key}", remedy="use the weights of this backbone")
    # `torch.tensor` copies: the module must never train on memory that the bundle still shows.
    state = {key: torch.tensor(values) for key, values in weights.items()}
    for key, tensor in state.items():
        if tensor.shape != own[key].shape or tensor.dtype != own[key].dtype:
            raise ModelError(
                "does not fit the module",
                field=f"weights.{key}",
                value=f"{tensor.dtype} {tuple(tensor.shape)}",
                remedy=f"needed is {own[key].dtype} {tuple(own[key].shape)}",
            )
    module.load_state_dict(state)


def weights_of(module: nn.Module) -> dict[str, NDArray[Any]]:
    """A copy of the state dict as arrays."""
    return {key: value.detach().cpu().numpy().copy() for key, value in module.state_dict().items()}


def _call(
    backbone: Backbone, allowed: Sequence[str], sizes: tuple[int, int, int], seed: int
) -> nn.Module:
    factory = resolve_factory(str(backbone.factory), allowed)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = factory(*sizes, **backbone.args)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            "failed",
            field="backbone.factory",
            value=f"{type(error).__name__}: {error}",
            remedy="it is called as factory(channels, length, classes, **args)",
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            "returned no nn.Module", field="backbone.factory", value=type(module).__name__
        )
    return module


def _check_head(module: nn.Module, name: str, classes: int) -> None:
    head = dict(module.named_modules()).get(name)
    if not isinstance(head, nn.Linear) or head.out_features != classes:
        raise ModelError(
            f"is not an nn.Linear of {classes} outputs",
            field="backbone.head",
            value=name,
            remedy="name the last layer of the module",
        )
