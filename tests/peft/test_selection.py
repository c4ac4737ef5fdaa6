import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner.errors import ModelError  # noqa: E402
from edgetuner.models import build  # noqa: E402
from edgetuner.peft.selection import select  # noqa: E402


@pytest.fixture(scope="module")
def base():
    return build("t_resnet", 6, 24, 4)


def test_without_a_pattern_everything_is_adapted(base):
    selected = select(base, ())
    assert len(selected.layers) == 11
    assert len(selected.norms) == 15


def test_a_star_stands_for_anything(base):
    selected = select(base, ("blocks.2.*",))
    assert selected.layers == tuple(f"blocks.2.body.conv{k}" for k in (8, 5, 3))
    assert all(name.startswith("blocks.2.") for name in selected.norms)
    assert select(base, ("*.conv3", "blocks.0.body.conv5")).layers == (
        "blocks.0.body.conv5",
        *(f"blocks.{block}.body.conv3" for block in range(3)),
    )


def test_a_name_alone_selects_no_batch_norm(base):
    assert select(base, ("blocks.2.body.conv3",)).norms == ()


@pytest.mark.parametrize("patterns", [("blocks.7.*",), ("*.conv3", "head"), ("*.norm*",)])
def test_a_pattern_that_fits_nothing_is_refused(base, patterns):
    with pytest.raises(ModelError, match=r"fits no convolution.*blocks.0.body.conv8"):
        select(base, patterns)


def test_a_base_without_batch_norm_has_none_to_select():
    assert select(nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU()), ()).norms == ()
