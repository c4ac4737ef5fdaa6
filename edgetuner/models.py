"""Backbones: normalised windows `(N, C, T)` in, logits `(N, K)` out, the last layer named `head`.

A backbone is one factory and one line in `BACKBONES`. Nothing here depends on the sensor: channels,
length and classes are arguments. Batch norm follows every convolution, so no convolution has a
bias.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgetuner.errors import ModelError


class TResNet(nn.Module):
    """Three residual blocks of kernels 8, 5, 3, global average pooling, a linear head.

    Wang et al., arXiv 1611.06455.
    """

    def __init__(self, channels: int, classes: int, maps: tuple[int, int, int]) -> None:
        super().__init__()
        widths = (channels, *maps)
        self.blocks = nn.Sequential(*map(_ResidualBlock, widths, maps))
        self.head = nn.Linear(maps[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x).mean(dim=-1)  # (N, D)
        logits: Tensor = self.head(features)
        return logits


class _ResidualBlock(nn.Module):
    """`relu(body(x) + shortcut(x))`; the body begins with a batch norm of its own input."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            OrderedDict(
                norm0=nn.BatchNorm1d(narrow),
                # what padding="same" does to an even kernel; said so, torch does not warn of it
                pad8=nn.ConstantPad1d((3, 4), 0.0),
                conv8=nn.Conv1d(narrow, wide, 8, bias=False),
                norm8=nn.BatchNorm1d(wide),
                relu8=nn.ReLU(),
                conv5=nn.Conv1d(wide, wide, 5, padding=2, bias=False),
                norm5=nn.BatchNorm1d(wide),
                relu5=nn.ReLU(),
                conv3=nn.Conv1d(wide, wide, 3, padding=1, bias=False),
                norm3=nn.BatchNorm1d(wide),
            )
        )
        self.shortcut = nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(wide)))
        if narrow != wide:
            conv = nn.Conv1d(narrow, wide, 1, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm1d(wide)))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


def t_resnet(channels: int, length: int, classes: int, *, width: int = 64) -> nn.Module:
    """T-ResNet of `width` maps, then twice as many: 560,915 weights at 97 channels, 17 classes."""
    _at_least("backbone.args.width", width, 1)
    return TResNet(channels, classes, (width, 2 * width, 2 * width))


class MobileNetV2(nn.Module):
    """The standard MobileNetV2 (Sandler et al., arXiv 1801.04381) on images of C x T pixels."""

    # expansion, maps, repeats, first stride: table 2 of the paper
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes: int, *, rgb: bool, width_mult: float) -> None:
        super().__init__()
        self.colours = 3 if rgb else 1
        maps = _divisible_by_8(32 * width_mult)
        features: list[nn.Module] = [_conv_norm_relu(self.colours, maps, 3, stride=2)]
        for expansion, stage_maps, repeats, first_stride in self.STAGES:
            for repeat in range(repeats):
                wide = _divisible_by_8(stage_maps * width_mult)
                stride = 1 if repeat else first_stride
                features.append(_InvertedResidual(maps, wide, stride, expansion))
                maps = wide
        last = _divisible_by_8(1280 * max(1.0, width_mult))
        features.append(_conv_norm_relu(maps, last, 1))
        self.features = nn.Sequential(*features)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(last, classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        image = x.unsqueeze(1).expand(-1, self.colours, -1, -1)  # (N, 1 or 3, C, T)
        features = self.dropout(self.features(image).mean(dim=(-2, -1)))  # (N, D)
        logits: Tensor = self.head(features)
        return logits


class _InvertedResidual(nn.Module):
    """Expand 1x1, filter 3x3 depthwise, project 1x1; the input is added where shapes allow it."""

    def __init__(self, narrow: int, wide: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = narrow * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv_norm_relu(narrow, hidden, 1)]
        layers += [
            _conv_norm_relu(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and narrow == wide

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def _conv_norm_relu(
    narrow: int, wide: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Module:
    padding = kernel // 2
    conv = nn.Conv2d(narrow, wide, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(wide), nn.ReLU6())


def _divisible_by_8(maps: float) -> int:
    rounded = max(8, int(maps + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * maps else rounded


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)


def mobilenet_v2(
    channels: int, length: int, classes: int, *, rgb: bool = False, width_mult: float = 1.0
) -> nn.Module:
    """MobileNetV2 on the window as an image of one colour, with `rgb` repeated to three."""
    _at_least("backbone.args.width_mult", width_mult, 0.1)
    return MobileNetV2(classes, rgb=rgb, width_mult=width_mult)


class SmallCnn(nn.Module):
    """Three convolutions, two of them strided: max pooling would keep its input in training."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv1d(channels, width, 5, padding=2, bias=False),
                norm1=nn.BatchNorm1d(width),
                relu1=nn.ReLU(),
                conv2=nn.Conv1d(width, 2 * width, 5, stride=2, padding=2, bias=False),
                norm2=nn.BatchNorm1d(2 * width),
                relu2=nn.ReLU(),
                conv3=nn.Conv1d(2 * width, 2 * width, 3, stride=2, padding=1, bias=False),
                norm3=nn.BatchNorm1d(2 * width),
                relu3=nn.ReLU(),
            )
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x).mean(dim=-1)  # (N, D)
        logits: Tensor = self.head(features)
        return logits


def small_cnn(channels: int, length: int, classes: int, *, width: int = 32) -> nn.Module:
    """A 1-D CNN of `width` maps, then twice as many: 24,263 weights at 6 channels, 7 classes."""
    _at_least("backbone.args.width", width, 1)
    return SmallCnn(channels, classes, width)


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "t_resnet": t_resnet,
    "mobilenet_v2": mobilenet_v2,
    "small_cnn": small_cnn,
}


def build(
    name: str,
    channels: int,
    length: int,
    classes: int,
    args: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> nn.Module:
    """A new backbone on the CPU, in training mode, the same for the same arguments and `seed`.

    Args:
        name: a key of `BACKBONES`.
        channels: C, sensor channels of a window.
        length: T, samples of a window.
        classes: K, at least 2.
        args: further keyword arguments of the factory.
        seed: of the initial weights; torch's global generator is left as it was.

    Raises:
        ModelError: an unknown name or argument, or a size that makes no sense.
    """
    if name not in BACKBONES:
        remedy = f"choose one of {', '.join(BACKBONES)}"
        raise ModelError("no such backbone", field="backbone.name", value=name, remedy=remedy)
    for field, size, least in (
        ("channels", channels, 1),
        ("length", length, 1),
        ("classes", classes, 2),
    ):
        _at_least(field, size, least)
    factory = BACKBONES[name]
    _check_args(name, factory, args or {})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return factory(channels, length, classes, **(args or {}))


def embed(module: nn.Module, x: Tensor, head: str = "head") -> tuple[Tensor, Tensor]:
    """Logits `(N, K)` and embeddings `(N, D)`, which are what enters the head, of `x (N, C, T)`.

    A forward hook reads them, so any `nn.Module` will do. Gradients and training mode are the
    caller's choice. One thread at a time per module: two would read each other's embeddings.

    Raises:
        ModelError: no layer of that name, a layer that the forward pass never reaches, or shapes
            that are not `(N, K)` and `(N, D)`.
    """
    try:
        layer = module.get_submodule(head)
    except AttributeError as error:
        raise ModelError(
            "no such layer",
            field="backbone.head",
            value=head,
            remedy="name the last nn.Linear of the module",
        ) from error
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits = module(x)
    finally:
        hook.remove()
    if not seen:
        remedy = "name the layer that gives the logits"
        raise ModelError(
            "never reached by the forward pass", field="backbone.head", value=head, remedy=remedy
        )
    for what, tensor in (("logits", logits), ("embeddings", seen[-1])):
        if not isinstance(tensor, Tensor) or tensor.ndim != 2 or len(tensor) != len(x):
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            remedy = f"one row for each of the {len(x)} windows is needed"
            raise ModelError(
                "not a matrix of one row a window", field=what, value=shape, remedy=remedy
            )
    return logits, seen[-1]


def count_weights(module: nn.Module) -> int:
    """Parameters of the module, a shared one counted once; buffers are not weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def _check_args(name: str, factory: Callable[..., nn.Module], args: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key, value in args.items():
        field = f"backbone.args.{key}"
        if key not in defaults:
            remedy = f"{name} takes {', '.join(defaults)}"
            raise ModelError("no such argument", field=field, value=value, remedy=remedy)
        wanted = type(defaults[key])
        if type(value) is not wanted and (type(value), wanted) != (int, float):
            raise ModelError(
                "of the wrong type", field=field, value=value, remedy=f"give a {wanted.__name__}"
            )


def _at_least(field: str, value: float, least: float) -> None:
    """Whole numbers where `least` is one."""
    if type(value) not in (int, type(least)) or not least <= value < float("inf"):
        raise ModelError("out of range", field=field, value=value, remedy=f"give at least {least}")
