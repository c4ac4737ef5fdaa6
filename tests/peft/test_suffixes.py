import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner.errors import ModelError  # noqa: E402
from edgetuner.models import BACKBONES, build  # noqa: E402
from edgetuner.peft import tt  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402
from edgetuner.peft.lora_edge import LoraEdge  # noqa: E402
from edgetuner.peft.suffixes import of_decomposition, suffixes_of  # noqa: E402
from tests.peft.nets import CHANNELS, CLASSES, LENGTH, Shared  # noqa: E402


@pytest.fixture
def decomposed(monkeypatch):
    """Grows by one with every SVD."""
    calls = []
    truncated = tt._truncated_svd
    monkeypatch.setattr(tt, "_truncated_svd", lambda *a: calls.append(1) or truncated(*a))
    return calls


def small():
    return build("small_cnn", CHANNELS, LENGTH, CLASSES).eval()


def frozen(adapter):
    return {layer: update.suffix for layer, update in adapter._by_layer().items()}


@pytest.mark.parametrize("decomposition", ["tt", "full_suffix"])
@pytest.mark.parametrize("name", BACKBONES)
def test_an_adapter_is_the_same_with_stored_suffixes_and_decomposes_nothing(
    name, decomposition, decomposed
):
    base = build(name, CHANNELS, LENGTH, CLASSES).eval()
    options = {"rank": 4, "decomposition": decomposition, "clip": True}
    computed = LoraEdge(base, **options)
    stored = of_decomposition(suffixes_of(base, 4, decomposition), decomposition)
    assert tuple(stored) == computed.layers
    decomposed.clear()
    for adapter in (
        LoraEdge(base, suffixes=stored, **options),
        LeanLoraEdge(base, torch.randn(2, CHANNELS, LENGTH), suffixes=stored, **options),
    ):
        assert decomposed == []
        for layer, suffix in frozen(computed).items():
            assert torch.equal(frozen(adapter)[layer], suffix)


def test_several_decompositions_lie_together():
    base = small()
    kept = suffixes_of(base, 4, "tt") | suffixes_of(base, 8, "full_suffix")
    layers = LoraEdge(base).layers
    assert set(kept) == {f"{d}/{layer}" for d in ("tt", "full_suffix") for layer in layers}
    for decomposition, rank in (("tt", 4), ("full_suffix", 8)):
        own = of_decomposition(kept, decomposition)
        assert set(own) == set(layers)
        for layer, suffix in own.items():
            assert suffix.dtype == torch.float32
            assert suffix.shape == (rank, *base.get_submodule(layer).weight.shape[1:])
    assert of_decomposition(kept, "full") == {}


def test_of_longer_full_suffixes_the_leading_rows_are_used(decomposed):
    base = small()
    stored = of_decomposition(suffixes_of(base, 4, "full_suffix"), "full_suffix")
    decomposed.clear()
    adapter = LoraEdge(base, rank=2, decomposition="full_suffix", suffixes=stored)
    assert decomposed == []
    for layer, suffix in frozen(adapter).items():
        assert torch.equal(suffix, stored[layer][:2].half())


def test_a_train_of_a_larger_rank_is_another_one(decomposed):
    base = small()
    stored = of_decomposition(suffixes_of(base, 4), "tt")
    decomposed.clear()
    adapter = LoraEdge(base, rank=2, suffixes=stored)
    assert decomposed != []
    for layer, suffix in frozen(LoraEdge(base, rank=2)).items():
        assert torch.equal(frozen(adapter)[layer], suffix)


def test_what_is_not_stored_is_computed(decomposed):
    base = small()
    stored = of_decomposition(suffixes_of(base, 4), "tt")
    first, *rest = stored
    decomposed.clear()
    adapter = LoraEdge(base, rank=4, suffixes={first: stored[first], "elsewhere": torch.ones(1)})
    assert adapter.layers == (first, *rest)
    assert len(decomposed) == 2 * len(rest)  # a kernel (O, I, K) is unfolded twice
    assert frozen(adapter).keys() == stored.keys()


def test_a_suffix_of_another_shape_is_refused_by_its_layer():
    base = small()
    stored = of_decomposition(suffixes_of(base, 4), "tt")
    stored["features.conv2"] = stored["features.conv2"][..., :1]
    with pytest.raises(ModelError, match=r"suffixes\.features\.conv2: does not fit"):
        LoraEdge(base, rank=4, suffixes=stored)


def test_training_does_not_write_to_what_was_stored():
    base = small()
    stored = of_decomposition(suffixes_of(base, 2), "tt")
    before = {layer: suffix.clone() for layer, suffix in stored.items()}
    adapter = LoraEdge(base, rank=2, suffixes=stored)
    for suffix in frozen(adapter).values():
        suffix.zero_()
    assert all(torch.equal(stored[layer], suffix) for layer, suffix in before.items())


def test_a_shared_kernel_is_stored_once():
    base = Shared()
    assert set(of_decomposition(suffixes_of(base, 2), "tt")) == set(LoraEdge(base, rank=2).layers)


def test_what_cannot_be_adapted_has_no_suffix():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3))
    base = nn.Sequential(nn.Conv1d(2, 2, 3), normed, nn.Conv1d(2, 2, 3, dtype=torch.complex64))
    assert set(suffixes_of(base, 1)) == {"tt/0"}
    assert suffixes_of(nn.Linear(2, 2), 1) == {}
