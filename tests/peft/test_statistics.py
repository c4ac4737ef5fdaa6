import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgetuner.errors import DataError, UsageError  # noqa: E402
from edgetuner.models import BACKBONES, build  # noqa: E402
from edgetuner.peft.statistics import reestimate  # noqa: E402

CHANNELS, LENGTH, CLASSES = 6, 40, 5


def windows(n, seed=0):
    return 3 + 2 * torch.randn(n, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(seed))


def snapshot(module):
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return state, [m.training for m in module.modules()]


@pytest.mark.parametrize("name", BACKBONES)
def test_one_batch_gives_what_torch_would_have_stored(name):
    module = build(name, CHANNELS, LENGTH, CLASSES)
    state, training = snapshot(module)
    buffers = reestimate(module, [windows(9)])
    after, training_after = snapshot(module)
    assert all(torch.equal(state[key], after[key]) for key in state)
    assert training == training_after

    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = 1.0
    module.train()(windows(9))
    expected = {k: t for k, t in module.state_dict().items() if "running" in k}
    assert buffers.keys() == expected.keys()
    for key, tensor in buffers.items():
        assert tensor.shape == state[key].shape
        assert tensor.dtype == state[key].dtype
        torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**32))
def test_batches_of_any_size_are_pooled_exactly_where_no_norm_lies_ahead(sizes, seed):
    module = nn.Sequential(nn.Conv1d(CHANNELS, 4, 3), nn.BatchNorm1d(4))
    x = windows(sum(sizes), seed)
    buffers = reestimate(module, x.split(sizes))
    with torch.no_grad():
        values = module[0](x).double().transpose(0, 1).flatten(1)
    var, mean = torch.var_mean(values, dim=1)
    torch.testing.assert_close(buffers["1.running_mean"].double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(buffers["1.running_var"].double(), var, rtol=1e-5, atol=1e-6)


def test_the_new_statistics_normalise_the_target():
    module = build("small_cnn", CHANNELS, LENGTH, CLASSES).eval()
    module.load_state_dict(reestimate(module, [windows(64)]), strict=False)
    with torch.no_grad():
        features = module.features[:2](windows(64, seed=1))
    assert float(features.mean(dim=(0, 2)).abs().max()) < 0.1
    assert float((features.std(dim=(0, 2)) - 1).abs().max()) < 0.1


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_source_keeps_the_weight_that_the_target_is_not_given(weight):
    module = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    source, target = module.state_dict(), reestimate(module, [windows(8)])
    for key, tensor in reestimate(module, [windows(8)], weight=weight).items():
        torch.testing.assert_close(tensor, weight * target[key] + (1 - weight) * source[key])


def test_a_module_without_statistics_has_none_to_give():
    assert reestimate(nn.Sequential(nn.Conv1d(CHANNELS, 4, 3)), [windows(4)]) == {}
    untracked = nn.Sequential(nn.BatchNorm1d(CHANNELS, track_running_stats=False))
    assert reestimate(untracked, [windows(4)]) == {}


def test_a_shared_norm_is_given_under_all_its_names_and_an_unreached_one_is_left_out():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(CHANNELS)
            self.alias = self.norm
            self.unreached = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.alias(self.norm(x))

    x = windows(8)
    buffers = reestimate(Shared(), [x])
    assert buffers.keys() == {
        f"{name}.{kind}" for name in ("norm", "alias") for kind in ("running_mean", "running_var")
    }
    # pooled over both calls: the raw values, and those already normalised
    expected = x.mean(dim=(0, 2)) / 2
    torch.testing.assert_close(buffers["norm.running_mean"], expected, rtol=1e-4, atol=1e-4)


def test_dropout_stays_off():
    class Dropping(nn.Sequential):
        pass

    module = Dropping(nn.Dropout(0.9), nn.BatchNorm1d(CHANNELS)).train()
    expected = windows(8).mean(dim=(0, 2))
    torch.testing.assert_close(reestimate(module, [windows(8)])["1.running_mean"], expected)


def test_no_gradient_is_kept():
    module = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    buffers = reestimate(module, [windows(4).requires_grad_()])
    assert not any(tensor.requires_grad for tensor in buffers.values())
    assert all(p.grad is None for p in module.parameters())


def test_what_has_no_statistics_is_refused():
    module = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    with pytest.raises(DataError, match="at least one batch"):
        reestimate(module, [])
    with pytest.raises(DataError, match="no variance"):
        reestimate(nn.Sequential(nn.BatchNorm1d(CHANNELS)), [windows(1)[:, :, 0]])
    with pytest.raises(DataError, match=r"features.norm1.*not finite"):
        reestimate(module, [windows(4) * float("nan")])


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_its_range_is_refused(weight):
    module = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    with pytest.raises(UsageError) as caught:
        reestimate(module, [windows(4)], weight=weight)
    assert caught.value.field == "weight"
