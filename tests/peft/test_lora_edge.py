import hashlib
import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgetuner.errors import ModelError  # noqa: E402
from edgetuner.models import BACKBONES, build, count_weights, embed  # noqa: E402
from edgetuner.peft.lora_edge import LoraEdge  # noqa: E402
from edgetuner.peft.tt import suffix  # noqa: E402

CHANNELS, LENGTH, CLASSES = 6, 40, 5


class Shared(nn.Module):
    """One convolution called twice, a second one with the same kernel, and one under two names."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, 8, 3, padding=1)
        self.twice = nn.Conv1d(8, 8, 3, padding=1)
        self.alias = self.twice
        self.tied = nn.Conv1d(8, 8, 3, padding=1, bias=False)
        self.tied.weight = self.twice.weight
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.alias(torch.relu(self.twice(x))))
        return self.head(self.tied(x).mean(dim=-1))


def one_convolution(convolution, norm):
    class OneConvolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = convolution, norm
            self.head = nn.Linear(convolution.out_channels, CLASSES)

        def forward(self, x):
            x = x if isinstance(self.conv, nn.Conv1d) else x.reshape(len(x), 6, 5, 8)
            return self.head(torch.relu(self.norm(self.conv(x))).flatten(2).mean(dim=-1))

    return OneConvolution()


def conv1d(**args):
    return lambda: one_convolution(nn.Conv1d(6, 12, 5, **args), nn.BatchNorm1d(12))


def conv2d(**args):
    return lambda: one_convolution(nn.Conv2d(6, 12, (3, 2), **args), nn.BatchNorm2d(12))


MODULES = {name: lambda name=name: build(name, CHANNELS, LENGTH, CLASSES) for name in BACKBONES}
MODULES |= {
    "conv1d": conv1d(),
    "conv1d strided and dilated": conv1d(stride=2, dilation=2, padding=4),
    "conv1d grouped": conv1d(groups=3),
    "conv1d depthwise": conv1d(groups=6, bias=False),
    "conv1d circular": conv1d(padding=2, padding_mode="circular"),
    "conv1d same": conv1d(padding="same"),
    "conv2d": conv2d(),
    "conv2d grouped": conv2d(groups=2),
    "conv2d depthwise": conv2d(groups=6),
    "conv2d reflected": conv2d(padding=1, padding_mode="reflect"),
    "shared": Shared,
    "double precision": lambda: conv1d()().double(),
}


@pytest.fixture(params=MODULES)
def base(request):
    """Any module that there is, with batch-norm statistics and biases as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MODULES[request.param]()
        for name, tensor in module.state_dict().items():
            if "running" in name or name.endswith("bias"):
                tensor.uniform_(0.5, 1.5)
    return module.eval()


def windows(base=None, n=4):
    x = torch.randn(n, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(2))
    return x if base is None else x.to(next(base.parameters()).dtype)


def perturb(adapter, seed=0, scale=0.05):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameters in adapter.groups().values():
            for parameter in parameters:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    return adapter


def digest(module):
    facts = hashlib.sha256()
    for name, tensor in module.state_dict(keep_vars=True).items():
        facts.update(repr((name, tensor.requires_grad, tensor.grad, tensor.data_ptr())).encode())
        facts.update(tensor.detach().numpy().tobytes())
    facts.update(repr([(name, m.training) for name, m in module.named_modules()]).encode())
    return facts.hexdigest()


@pytest.mark.parametrize("decomposition", ["tt", "full_suffix"])
@pytest.mark.parametrize("extras", [False, True])
def test_before_the_first_step_the_output_is_the_bases_bit_for_bit(base, decomposition, extras):
    beta = extras and any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in base.modules())
    adapter = LoraEdge(
        base,
        rank=2,
        decomposition=decomposition,
        batch_norm_beta=beta,
        head="head" if extras else None,
    )
    x = windows(base)
    for _ in range(2):
        assert torch.equal(adapter(x), base(x))
    with torch.no_grad():
        assert torch.equal(adapter.train()(x), base(x))
    assert adapter.core_norm() == 0.0


def test_the_fused_model_is_the_adapted_one_and_has_the_bases_state(base):
    adapter = perturb(LoraEdge(base, rank=3, clip=True, head="head"))
    before, fused = base.state_dict(), adapter.fused_state()
    assert list(fused) == list(before)
    assert {k: (t.shape, t.dtype) for k, t in fused.items()} == {
        k: (t.shape, t.dtype) for k, t in before.items()
    }
    x = windows(base)
    with torch.no_grad():
        adapted, original = adapter(x), base(x)
        base.load_state_dict(fused, strict=True)
        torch.testing.assert_close(base(x), adapted)
    assert not torch.allclose(adapted, original, atol=1e-4)


def test_training_never_touches_the_base(base):
    base.train()
    before = digest(base)
    adapter = LoraEdge(base, rank=2, head="head")
    optimiser = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(adapter(windows(base)), torch.arange(4)).backward()
        optimiser.step()
    adapter.eval().train()
    adapter.fused_state()["head.weight"].zero_()
    adapter.to(torch.float64)
    assert adapter.core_norm() > 0.0
    assert digest(base) == before


def test_gradients_reach_what_is_trained_and_nothing_else(base):
    adapter = perturb(LoraEdge(base, rank=2))
    adapter(windows(base)).square().sum().backward()
    cores = adapter.groups()["cores"]
    assert all(core.grad is not None and bool(core.grad.any()) for core in cores)
    trained = {id(core) for core in cores}
    assert all(p.grad is None for p in adapter.parameters() if id(p) not in trained)
    assert {id(p) for p in adapter.parameters() if p.requires_grad} == trained
    assert not any(suffix.requires_grad for suffix in adapter.buffers())


def test_the_gradient_of_a_core_is_that_of_the_update_it_stands_for():
    base = conv1d(groups=3)().double().eval()
    adapter = perturb(LoraEdge(base, rank=2, alpha=0.5)).double()
    core = adapter.updates[0].core
    x = windows(base)

    def outputs(core):
        return torch.func.functional_call(adapter, {"updates.0.core": core}, (x,))

    assert torch.autograd.gradcheck(outputs, (core,))


def test_batch_norm_is_a_fixed_map_in_training_so_a_batch_can_be_split():
    base = build("t_resnet", CHANNELS, LENGTH, CLASSES)
    adapter = LoraEdge(base).train()
    x = windows(n=8)
    together = adapter(x)
    apart = torch.cat([adapter(half) for half in x.split(3)])
    torch.testing.assert_close(together, apart)


def test_averaging_cores_averages_dense_updates():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    here, there, mean = (LoraEdge(base, rank=3) for _ in range(3))
    perturb(here, 1), perturb(there, 2)
    ours, theirs = here.cores(), there.cores()
    mean.load_cores({layer: (ours[layer] + theirs[layer]) / 2 for layer in ours})
    for name, kernel in mean.merged().items():
        average = (here.merged()[name] + there.merged()[name]) / 2
        torch.testing.assert_close(kernel, average, rtol=1e-6, atol=1e-7)


def test_cores_are_copies_and_go_back_in():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    adapter = perturb(LoraEdge(base))
    cores = adapter.cores()
    other = LoraEdge(base)
    other.load_cores(cores)
    assert torch.equal(other(windows()), adapter(windows()))
    for core in cores.values():
        core.zero_()
    assert adapter.core_norm() > 0.0
    assert adapter.core_norm() == pytest.approx(other.core_norm())
    expected = math.sqrt(sum(float(c.square().sum()) for c in adapter.cores().values()))
    assert adapter.core_norm() == pytest.approx(expected)


def test_cores_of_another_adapter_are_refused_whole():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    adapter = LoraEdge(base, rank=2)
    cores = {layer: torch.ones_like(core) for layer, core in adapter.cores().items()}
    first, *_, last = cores
    for wrong in (
        {first: cores[first]},
        cores | {"other": cores[first]},
        cores | {last: torch.ones(1, 1)},
        cores | {last: cores[last] * float("nan")},
    ):
        with pytest.raises(ModelError) as caught:
            adapter.load_cores(wrong)
        assert caught.value.field.startswith("cores")
        assert adapter.core_norm() == 0.0


def test_what_is_trained_is_counted():
    base = build("t_resnet", 97, 60, 17)
    cores_only = LoraEdge(base, rank=2)
    assert cores_only.trained() == 2304
    assert cores_only.trained_fraction() == 2304 / 560_915
    everything = LoraEdge(
        base, rank=3, decomposition="full_suffix", batch_norm_beta=True, head="head"
    )
    betas = 97 + 64 + 128 + 4 * 64 + 8 * 128
    assert [sum(p.numel() for p in g) for g in everything.groups().values()] == [3456, betas, 2193]
    assert everything.trained() == 3456 + betas + 2193
    assert everything.trained() == sum(
        p.numel() for p in everything.parameters() if p.requires_grad
    )
    assert everything.trained_fraction() <= 0.0149
    assert count_weights(base) == 560_915


def test_a_shared_kernel_is_adapted_once_and_stands_under_all_its_names():
    base = Shared()
    adapter = perturb(LoraEdge(base, rank=2))
    assert adapter.layers == ("stem", "twice")
    fused = adapter.fused_state()
    assert torch.equal(fused["twice.weight"], fused["alias.weight"])
    assert torch.equal(fused["twice.weight"], fused["tied.weight"])
    assert not torch.equal(fused["twice.weight"], base.twice.weight)


def test_only_the_layers_named_are_adapted():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    adapter = perturb(LoraEdge(base, rank=2, layers=["features.conv3"]))
    fused, before = adapter.fused_state(), base.state_dict()
    changed = [name for name in fused if not torch.equal(fused[name], before[name])]
    assert changed == ["features.conv3.weight"]


def test_alpha_scales_the_update():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    one, two = (perturb(LoraEdge(base, alpha=alpha)) for alpha in (1.0, 2.0))
    name = "features.conv1.weight"
    weight = base.get_parameter(name)
    torch.testing.assert_close(2 * (one.merged()[name] - weight), two.merged()[name] - weight)


def test_half_precision_keeps_its_dtype():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES).half().eval()
    adapter = LoraEdge(base, rank=2)
    assert torch.equal(adapter(windows().half()), base(windows().half()))
    assert {tensor.dtype for tensor in adapter.merged().values()} == {torch.float16}


def test_embeddings_are_read_through_the_adapter():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES).eval()
    logits, embeddings = embed(LoraEdge(base), windows(), head="base.head")
    assert torch.equal(logits, base(windows()))
    assert torch.equal(embeddings, embed(base, windows())[1])


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"layers": ["features.conv9"]}, "layers", "no such layer"),
        ({"layers": ["head"]}, "layers", "Conv1d or Conv2d"),
        ({"layers": []}, "layers", "no convolution"),
        ({"layers": ["features.conv1"] * 2}, "layers", "named twice"),
        ({"rank": 33}, "rank", "features.conv1.* at most 30"),
        ({"rank": 0}, "rank", "whole number"),
        ({"alpha": 0.0}, "alpha", "not a scale"),
        ({"alpha": float("inf")}, "alpha", "not a scale"),
        ({"decomposition": "cp"}, "decomposition", "tt, full_suffix"),
        ({"head": "classifier"}, "head", "no such layer"),
        ({"head": "features.conv1"}, "head", "not a linear layer"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_field(options, field, words):
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    with pytest.raises(ModelError, match=words) as caught:
        LoraEdge(base, **options)
    assert caught.value.field == field


def test_a_base_that_cannot_be_adapted_is_refused():
    with pytest.raises(ModelError, match="no convolution"):
        LoraEdge(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ModelError, match="no batch norm"):
        LoraEdge(Shared(), batch_norm_beta=True)
    with pytest.raises(ModelError, match="one batch through"):
        LoraEdge(nn.Sequential(nn.LazyConv1d(4, 3)))
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3)))
    with pytest.raises(ModelError, match="plain parameter"):
        LoraEdge(normed, rank=1)
    broken = Shared()
    with torch.no_grad():
        broken.stem.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"layer stem.*not finite"):
        LoraEdge(broken)
    hoarder = Shared()
    hoarder.last = hoarder(windows())
    with pytest.raises(ModelError, match="cannot be copied"):
        LoraEdge(hoarder)


def test_training_the_cores_lowers_the_loss():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES)
    adapter = LoraEdge(base, rank=4)
    x, y = windows(n=20), torch.arange(20) % CLASSES
    optimiser = torch.optim.Adam(adapter.groups()["cores"], lr=3e-2)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(adapter(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_the_suffix_is_held_in_half_precision_where_that_holds_it():
    conv = nn.Conv1d(8, 16, 3)
    held = LoraEdge(nn.Sequential(conv), rank=2, layers=["0"]).updates[0]
    assert held.suffix.dtype == torch.float16 and held.core.dtype == torch.float32
    exact = suffix(conv.weight, 2)
    assert (held.suffix.float() - exact).norm() <= 2**-10 * exact.norm()
    for scale in (1e-8, 1e8):  # below and beyond what it can hold
        with torch.no_grad():
            conv.weight *= scale / conv.weight.norm()
        held = LoraEdge(nn.Sequential(conv), rank=2, layers=["0"]).updates[0]
        assert held.suffix.dtype == torch.float32


# ------------------------------------------------------------------ how far a step goes


def one_kernel(weight, **options):
    """An adapter of a single convolution, its core and the scale of that."""
    base = nn.Sequential(nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2], bias=False))
    with torch.no_grad():
        base[0].weight.copy_(weight)
    adapter = LoraEdge(base, clip=True, **options)
    ((core, scale),) = adapter.scales()
    return adapter, core, scale


@st.composite
def kernels(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    return torch.randn(shape, generator=generator) * 10.0 ** draw(st.integers(-3, 3))


alphas = st.sampled_from([-2.0, 0.1, 1.0, 4.0])
decompositions = st.sampled_from(["tt", "full_suffix"])


@settings(max_examples=40, deadline=None)
@given(kernels(), st.integers(1, 4), alphas, decompositions, st.floats(0.001, 0.5))
def test_a_step_of_one_sign_each_changes_the_kernel_by_as_much_of_itself_on_average(
    weight, rank, alpha, decomposition, step
):
    """Averaged over the rows of a Walsh matrix, whose columns are orthogonal: exactly."""
    adapter, core, scale = one_kernel(weight, rank=rank, alpha=alpha, decomposition=decomposition)
    walsh = torch.ones(1, 1)
    while len(walsh) < core.shape[1]:
        walsh = torch.kron(walsh, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    squares = []
    for signs in walsh:
        with torch.no_grad():
            core.copy_((step * scale * signs[: core.shape[1]]).expand_as(core))
        moved = adapter.merged()["0.weight"].detach().double() - weight.double()
        squares.append(float(moved.square().sum()))
    mean = sum(squares) / len(squares)
    size = float(weight.double().square().sum())
    assert mean == pytest.approx(step**2 * size, rel=2e-3)


@settings(max_examples=30, deadline=None)
@given(kernels(), st.floats(0.01, 100), decompositions)
def test_a_step_is_relative_to_the_kernel_however_large_it_is(weight, times, decomposition):
    _, core, scale = one_kernel(weight, rank=2, decomposition=decomposition)
    adapter, larger, same = one_kernel(times * weight, rank=2, decomposition=decomposition)
    # the suffix carries the singular values: it grows with the kernel, the core need not
    assert same == pytest.approx(scale, rel=2e-3)
    assert larger.shape == core.shape and adapter.core_norm() == 0


def test_a_kernel_of_nothing_is_not_moved():
    _, _, scale = one_kernel(torch.zeros(4, 3, 3), rank=2)
    assert scale == 0.0


def test_shifts_and_a_head_move_by_the_root_mean_square_of_what_they_stand_beside():
    base = build("small_cnn", CHANNELS, LENGTH, CLASSES).eval()
    with torch.no_grad():
        base.features.norm1.weight.fill_(3.0)
        base.head.weight.fill_(-0.5)
        base.head.bias.fill_(100.0)
    adapter = LoraEdge(base, batch_norm_beta=True, head="head")
    scales = {id(parameter): scale for parameter, scale in adapter.scales()}
    trained = [p for kind in adapter.groups().values() for p in kind]
    assert len(scales) == len(trained) and set(scales) == {id(p) for p in trained}
    assert scales[id(adapter.betas[0])] == pytest.approx(3.0)
    assert [scales[id(part)] for part in adapter.head] == pytest.approx([0.5, 0.5])


def test_shifts_of_a_norm_without_scale_move_by_one():
    base = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)).eval()
    base[1].weight = None
    adapter = LoraEdge(base, batch_norm_beta=True)
    assert dict((id(p), s) for p, s in adapter.scales())[id(adapter.betas[0])] == 1.0
