from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner import models  # noqa: E402
from edgetuner.bundle import Bundle, Description, Tensors, describe, write_bundle  # noqa: E402
from edgetuner.errors import ModelError  # noqa: E402
from edgetuner.factories import (  # noqa: E402
    build_module,
    load_weights,
    new_module,
    resolve_factory,
    weights_of,
)

MINE = """
from torch import nn

def build(channels, length, classes, *, width=4):
    if width < 0:
        raise ValueError("narrow")
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * length, width), nn.ReLU())
    net.add_module("last", nn.Linear(width, classes))
    return net

def text(channels, length, classes):
    return "no module"

constant = 3
"""
NAME = "my_models:build"


@pytest.fixture(autouse=True)
def my_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)


def description(**backbone: Any) -> Description:
    return describe(
        backbone=backbone or {"name": "small_cnn", "args": {"width": 4}},
        classes=("rest", "walk", "run"),
        channels=("x", "y"),
        length=16,
        hz=50.0,
    )


def bundle_of(module: nn.Module, path: Path, about: Description) -> Bundle:
    tensors = Tensors(
        weights=weights_of(module),
        mean=np.zeros(2, np.float32),
        std=np.ones(2, np.float32),
        reference={},
        sensor={},
        exemplar_x=np.zeros((1, 2, 16), np.float16),
        exemplar_y=np.zeros(1, np.int64),
    )
    return write_bundle(path, tensors, about)


@pytest.mark.parametrize("name", models.BACKBONES)
def test_a_backbone_survives_the_bundle_bit_for_bit(tmp_path: Path, name: str) -> None:
    about = description(name=name)
    module = new_module(about, seed=3)
    module(torch.randn(8, 2, 16))  # so that the statistics are not those of a new module
    bundle = bundle_of(module, tmp_path / "b", about)
    rebuilt = build_module(Bundle.load(bundle.path))
    assert not rebuilt.training
    x = torch.randn(4, 2, 16)
    assert torch.equal(rebuilt(x), module.eval()(x))
    for key, value in module.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[key], value)


def test_the_module_does_not_share_memory_with_the_bundle(tmp_path: Path) -> None:
    bundle = bundle_of(new_module(description()), tmp_path / "b", description())
    before = {key: value.copy() for key, value in bundle.weights.items()}
    with torch.no_grad():
        for parameter in build_module(bundle).parameters():
            parameter.add_(1)
    for key, value in before.items():
        np.testing.assert_array_equal(bundle.weights[key], value)


def test_a_factory_of_the_user(tmp_path: Path) -> None:
    about = description(factory=NAME, args={"width": 5}, head="last")
    module = new_module(about, [NAME])
    bundle = bundle_of(module, tmp_path / "b", about)
    x = torch.randn(4, 2, 16)
    assert torch.equal(build_module(bundle, [NAME])(x), module.eval()(x))


@pytest.mark.parametrize("allowed", [(), ("my_models",), ("my_models:*",), ("my_models:text",)])
def test_nothing_is_imported_unless_its_exact_name_is_allowed(allowed: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match=r"not an allowed factory.*allow_factories"):
        new_module(description(factory=NAME, head="last"), allowed)
    assert "my_models" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package_of_mine:build", "cannot be imported"),
        ("my_models:absent", "cannot be imported"),
        ("my_models:constant", "cannot be called"),
    ],
)
def test_factories_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_factory(name, [name])


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"factory": NAME, "head": "last", "args": {"width": -1}}, "ValueError: narrow"),
        ({"factory": NAME, "head": "last", "args": {"depth": 1}}, "TypeError"),
        ({"factory": "my_models:text"}, "returned no nn.Module"),
        ({"factory": NAME, "head": "1"}, "not an nn.Linear of 3 outputs"),
        ({"factory": NAME, "head": "end"}, "not an nn.Linear of 3 outputs"),
        ({"name": "resnet_152"}, "no such backbone"),
    ],
)
def test_modules_that_cannot_be_used(backbone: dict[str, Any], message: str) -> None:
    about = description(**backbone)
    with pytest.raises(ModelError, match=message):
        new_module(about, [str(about.backbone.factory)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("head.bias"), "head.bias: is missing"),
        (lambda w: w.update(extra=np.zeros(1)), "extra: is no weight"),
        (lambda w: w.update({"head.bias": np.zeros(4, np.float32)}), r"head.bias.*needed is"),
        (lambda w: w.update({"head.bias": np.zeros(3)}), r"head.bias.*float64"),
    ],
)
def test_weights_that_do_not_fit(spoil: Any, message: str) -> None:
    module = new_module(description())
    weights = weights_of(module)
    spoil(weights)
    before = weights_of(module)
    with pytest.raises(ModelError, match=message):
        load_weights(module, weights)
    for key, value in weights_of(module).items():
        np.testing.assert_array_equal(value, before[key])
