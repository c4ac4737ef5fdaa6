import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner.errors import ModelError  # noqa: E402
from edgetuner.models import BACKBONES, build, count_weights, embed  # noqa: E402

CHANNELS, LENGTH, CLASSES = 6, 60, 7


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


def windows(n=3, channels=CHANNELS, length=LENGTH):
    return torch.randn(n, channels, length, generator=torch.Generator().manual_seed(1))


def test_a_backbone_maps_windows_to_logits_of_its_head(name):
    module = build(name, CHANNELS, LENGTH, CLASSES).eval()
    assert isinstance(module.head, nn.Linear)
    logits, embeddings = embed(module, windows())
    assert logits.shape == (3, CLASSES)
    assert embeddings.shape == (3, module.head.in_features)
    assert torch.equal(module.head(embeddings), logits)
    assert torch.equal(module(windows()), logits)


@pytest.mark.parametrize(("channels", "length"), [(1, 1), (3, 7), (113, 250)])
def test_a_backbone_takes_any_size_of_window(name, channels, length):
    module = build(name, channels, length, 2).eval()
    assert module(windows(2, channels, length)).shape == (2, 2)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone(name):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = build(name, CHANNELS, LENGTH, CLASSES, seed=5).state_dict()
    assert torch.equal(torch.rand(2), expected)
    again = build(name, CHANNELS, LENGTH, CLASSES, seed=5).state_dict()
    other = build(name, CHANNELS, LENGTH, CLASSES, seed=6).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_the_weights_are_those_of_the_papers():
    assert count_weights(build("t_resnet", 97, 60, 17)) == 560_915
    assert count_weights(build("mobilenet_v2", 3, 224, 1000, {"rgb": True})) == 3_504_872
    assert count_weights(build("small_cnn", 6, 60, 7)) == 24_263
    assert count_weights(build("small_cnn", 97, 60, 17)) < 50_000


def test_t_resnet_has_eleven_convolutions_without_bias():
    convolutions = [m for m in build("t_resnet", 97, 60, 17).modules() if isinstance(m, nn.Conv1d)]
    assert sorted(c.kernel_size[0] for c in convolutions) == [1, 1, 3, 3, 3, 5, 5, 5, 8, 8, 8]
    assert sum(c.out_channels for c in convolutions) == 1152
    assert all(c.bias is None for c in convolutions)


def test_t_resnet_pads_as_same_does():
    body = build("t_resnet", CHANNELS, LENGTH, CLASSES).blocks[0].body
    x = windows()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it copies the input of an even kernel
        same = nn.functional.conv1d(x, body.conv8.weight, padding="same")
    torch.testing.assert_close(body.conv8(body.pad8(x)), same)


def test_mobilenet_repeats_the_window_for_a_stem_of_three_colours():
    module = build("mobilenet_v2", CHANNELS, LENGTH, CLASSES, {"rgb": True}).eval()
    assert module.features[0][0].in_channels == 3
    assert module(windows()).shape == (3, CLASSES)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "t_resnett"}, "backbone.name"),
        ({"channels": 0}, "channels"),
        ({"channels": 2.5}, "channels"),
        ({"length": -1}, "length"),
        ({"classes": 1}, "classes"),
        ({"classes": True}, "classes"),
        ({"args": {"depth": 3}}, "backbone.args.depth"),
        ({"args": {"width": "64"}}, "backbone.args.width"),
        ({"args": {"width": 0}}, "backbone.args.width"),
        (
            {"name": "mobilenet_v2", "args": {"width_mult": float("nan")}},
            "backbone.args.width_mult",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_by_field(change, field):
    arguments = {"name": "t_resnet", "channels": 3, "length": 9, "classes": 2, "args": {}} | change
    with pytest.raises(ModelError) as caught:
        build(**arguments)
    assert caught.value.field == field


def test_embed_reads_a_module_of_the_users_own_and_leaves_no_hook():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
            self.unused = nn.Linear(1, 1)
            self.classify = nn.Linear(5, 2)

        def forward(self, x):
            return self.classify(self.encoder(x))

    module, x = Odd(), windows(4, 3, 4)
    logits, embeddings = embed(module, x, head="classify")
    assert torch.equal(embeddings, module.encoder(x))
    assert torch.equal(logits, module(x))
    assert not module.classify._forward_pre_hooks
    for head in ("head", "unused"):
        with pytest.raises(ModelError, match="head"):
            embed(module, x, head=head)


def test_embed_refuses_logits_that_are_no_matrix():
    module = nn.Sequential(nn.Conv1d(3, 2, 1))
    with pytest.raises(ModelError) as caught:
        embed(module, windows(4, 3, 5), head="0")
    assert caught.value.field == "logits"
