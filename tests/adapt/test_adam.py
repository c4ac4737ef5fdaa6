from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner.adapt.adam import Adam  # noqa: E402


def test_it_steps_as_that_of_torch_does() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5))]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    mine = Adam([(ours[:1], 0.1), (ours[1:], 0.02)])
    reference = torch.optim.Adam([{"params": theirs[:1], "lr": 0.1}, {"params": theirs[1:]}], 0.02)
    for step in range(20):
        schedule = 1 / (1 + step)
        for group, rate in zip(reference.param_groups, (0.1, 0.02), strict=True):
            group["lr"] = rate * schedule
        for weights, optimiser in ((ours, mine), (theirs, reference)):
            optimiser.zero_grad()
            sum((w**2 + w.sin()).sum() for w in weights).backward()
        mine.step(schedule)
        reference.step()
        for weight, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(weight, their, rtol=1e-5, atol=1e-6)


def test_a_weight_without_a_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(2))
    adam = Adam([([weight], 1.0)])
    adam.step()
    assert weight.tolist() == [1, 1]


HEAVY = """
import sys, torch
from edgetuner.adapt.rungs.cores import adapter_of, plan
from edgetuner.adapt.train import train_cores
from edgetuner.config import AdaptConfig
from edgetuner.models import build
settings = AdaptConfig(steps=2, batch_size=4, rank=1)
x, y = torch.randn(4, 3, 16), torch.tensor([0, 1, 0, 1])
adapter = adapter_of(build("small_cnn", 3, 16, 2).eval(), x[:1], settings, "head")
course = plan(adapter, x[:1]).course(4, 4, 10**9)
train_cores(adapter, x, y, settings, print, course)
print(*(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""


def test_training_imports_neither_the_compiler_nor_its_algebra() -> None:
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
