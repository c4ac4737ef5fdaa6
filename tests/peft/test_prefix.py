import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner.errors import ModelError, UsageError  # noqa: E402
from edgetuner.models import build  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402
from edgetuner.peft.prefix import PrefixCache, prefix_key  # noqa: E402
from tests.peft.nets import CHANNELS, CLASSES, LENGTH, Deciding  # noqa: E402

X = torch.randn(6, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(0))


def last_stage(seed=0, stage="blocks.2", **options):
    base = build("t_resnet", CHANNELS, LENGTH, CLASSES, seed=seed).eval()
    layers = [n for n, m in base.named_modules() if isinstance(m, nn.Conv1d) and stage in n]
    return LeanLoraEdge(base, X[:2], rank=2, layers=layers, **options)


def test_from_the_border_on_the_answer_is_the_same_but_for_one_rounding():
    adapter = last_stage()
    cache = PrefixCache(adapter, 6)
    border = cache.border([5, 3, 5], X[[5, 3, 5]])
    expected = adapter(X[[5, 3, 5]])
    torch.testing.assert_close(adapter.program.resume(border), expected, rtol=1e-2, atol=2e-3)
    assert len(cache) == 2
    assert cache.nbytes == 6 * sum(value[0].numel() for value in border) * 2


def test_a_window_is_run_once(monkeypatch):
    adapter = last_stage()
    cache = PrefixCache(adapter, 6)
    sizes, prefix = [], adapter.program.prefix
    monkeypatch.setattr(adapter.program, "prefix", lambda x: sizes.append(len(x)) or prefix(x))
    first = cache.border([0, 1, 2], X[:3])
    again = cache.border([2, 0, 3], X[[2, 0, 3]])
    assert sizes == [3, 1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one[2], other[0]) and torch.equal(one[0], other[1])


def test_gradients_reach_the_trained_layers():
    adapter = last_stage()
    adapter.program.resume(PrefixCache(adapter, 6).border([0, 1], X[:2])).sum().backward()
    assert all(float(core.grad.abs().sum()) > 0 for core in adapter.groups()["cores"])


def test_the_key_is_that_of_the_prefix_alone():
    adapter = last_stage()
    key = prefix_key(adapter)
    with torch.no_grad():
        adapter.groups()["cores"][0] += 1
        adapter.base.blocks[2].body.conv5.weight += 1
    assert prefix_key(adapter) == key == prefix_key(last_stage())
    assert key != prefix_key(last_stage(stage="blocks.1"))
    with torch.no_grad():
        adapter.base.blocks[0].body.norm8.running_mean[0] += 1
    assert prefix_key(adapter) != key


def test_values_beyond_float16_are_kept_as_they_are():
    adapter = last_stage()
    with torch.no_grad():
        adapter.base.blocks[1].body.norm3.bias += 1e6
    (value, *_) = PrefixCache(adapter, 6).border([0], X[:1])
    assert bool(torch.isfinite(value).all())


def test_what_is_not_captured_has_no_prefix():
    with pytest.raises(ModelError, match="no prefix"):
        PrefixCache(LeanLoraEdge(Deciding().eval(), X[:2], rank=2), 6)


def test_a_cache_takes_no_more_windows_than_it_was_made_for():
    cache = PrefixCache(last_stage(), 2)
    cache.border([0, 1], X[:2])
    with pytest.raises(UsageError, match="too many"):
        cache.border([2], X[2:3])
    assert len(cache) == 2


def test_the_frozen_half_of_the_first_trained_layer_is_part_of_the_prefix():
    adapter = last_stage(apart=True)
    border = PrefixCache(adapter, 6).border([0, 1], X[:2])
    maps = [value.shape[1] for value in border]
    assert maps == [128, 2, 128]  # u and q of the first layer, and the shortcut
    expected = last_stage()(X[:2])
    torch.testing.assert_close(adapter.program.resume(border), expected, rtol=1e-2, atol=2e-3)
    key = prefix_key(adapter)
    with torch.no_grad():
        adapter.updates[0].suffix[0] += 1
    assert prefix_key(adapter) != key
