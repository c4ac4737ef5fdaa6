import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgetuner.peft.activation import IDENTITY, RELU, activation_of  # noqa: E402
from edgetuner.peft.geometry import Geometry  # noqa: E402
from edgetuner.peft.lean import LeanConvolution  # noqa: E402
from edgetuner.peft.lora_edge import LowRankUpdate  # noqa: E402
from edgetuner.peft.norm import Norm  # noqa: E402
from edgetuner.peft.pointwise import LeanPointwise  # noqa: E402

ALPHA = 0.7
ACTIVATIONS = (
    nn.Identity(),
    nn.ReLU(),
    nn.ReLU6(),
    nn.Hardtanh(-0.5, 0.7),
    nn.LeakyReLU(0.1),
    nn.LeakyReLU(-0.2),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.Hardswish(),
)
paddings = st.one_of(st.just("same"), st.just("valid"), st.integers(0, 3))


@st.composite
def convolutions(draw):
    """Any convolution, with the update, batch norm, residual and activation that it may have."""
    torch.manual_seed(draw(st.integers(0, 10_000)))
    dims = draw(st.integers(1, 2))
    groups = draw(st.integers(1, 3))
    narrow, wide = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    padding = draw(paddings)
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1](
        narrow,
        wide,
        [draw(st.integers(1, 4)) for _ in range(dims)],
        stride=1 if padding == "same" else [draw(st.integers(1, 3)) for _ in range(dims)],
        padding=padding,
        dilation=[draw(st.integers(1, 2)) for _ in range(dims)],
        groups=groups,
        bias=draw(st.booleans()),
    ).double()
    update = None
    if rank := draw(st.integers(0, 3)):
        update = LowRankUpdate(wide, torch.randn(rank, *conv.weight.shape[1:]).double())
        nn.init.normal_(update.core)
    norm = None
    if draw(st.booleans()):
        norm = Norm((nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1](wide, affine=draw(st.booleans())))
        norm.module.double().eval()
        for tensor in norm.module.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
        if norm.module.affine and draw(st.booleans()):
            norm.beta = nn.Parameter(torch.randn(wide).double())
    return conv, norm, update, draw(st.sampled_from(ACTIVATIONS)), dims


def plain(conv, norm, update, activation, x, residual):
    kernel = conv.weight if update is None else conv.weight + ALPHA * update()
    z = torch.func.functional_call(conv, {"weight": kernel}, (x,))
    if norm is not None:
        beta = {} if norm.beta is None else {"bias": norm.beta}
        z = torch.func.functional_call(norm.module, beta, (z,))
    return activation(z if residual is None else z + residual)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=150, deadline=None)
@given(convolutions(), st.booleans(), st.booleans(), st.booleans())
def test_value_and_gradients_are_those_of_plain_autograd(drawn, x_wanted, beside, padded):
    conv, norm, update, activation, dims = drawn
    conv.requires_grad_(False)
    if norm is not None:
        norm.module.requires_grad_(False)
    x = torch.randn(2, conv.in_channels, *(13, 11)[:dims]).double().requires_grad_(x_wanted)
    widths = (2, 1, 0, 1)[: 2 * dims] if padded else (0,) * 2 * dims
    outside = nn.functional.pad(x, widths)
    shape = plain(conv, norm, update, activation, outside, None).shape
    residual = torch.randn(shape).double().requires_grad_() if beside else None
    core, beta = update and update.core, norm and norm.beta
    wanted = [t for t in (x, residual, core, beta) if t is not None and t.requires_grad]
    expected = plain(conv, norm, update, activation, outside, residual)

    geometry = Geometry.of(conv).padded(widths)
    layer = LeanConvolution(
        conv, geometry, norm, activation_of(activation), update=update, alpha=ALPHA
    )
    for value in (layer(x, residual), torch.no_grad()(layer)(x, residual)):
        assert value.shape == shape
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    if not wanted:
        return
    weight = torch.randn(shape).double()
    theirs = torch.autograd.grad((expected * weight).sum(), wanted)
    ours = torch.autograd.grad((layer(x, residual) * weight).sum(), wanted)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-9)


def adapted(groups=1, rank=2, activation=RELU, **options):
    conv = nn.Conv1d(8, 16, 3, padding=1, groups=groups, bias=False).requires_grad_(False)
    update = LowRankUpdate(16, torch.randn(rank, 8 // groups, 3))
    return LeanConvolution(conv, Geometry.of(conv), activation=activation, update=update, **options)


def kept(layer, x):
    """Shape and dtype of all that is saved for the backward pass, the trained core left out."""
    seen = []
    core = layer.update.core
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        layer(x)
    return {(tuple(t.shape), t.dtype) for t in seen if t.data_ptr() != core.data_ptr()}


def test_q_and_one_bit_an_element_are_all_that_is_kept():
    x = torch.randn(4, 8, 10, requires_grad=True)
    bits = ((4 * 16 * 10 // 8,), torch.uint8)
    assert kept(adapted(), x) == {((4 * 10, 2), torch.float32), bits}
    largest = ((), torch.float32)
    assert kept(adapted(q_dtype=torch.float16), x) == {((4 * 10, 2), torch.float16), largest, bits}
    assert kept(adapted(activation=IDENTITY), x) == {((4 * 10, 2), torch.float32)}


def test_an_input_smaller_than_its_q_is_kept_instead():
    x = torch.randn(4, 8, 10, requires_grad=True)
    assert ((4, 8, 1, 10), torch.float32) in kept(adapted(groups=8, rank=2), x)
    assert ((4 * 10, 8), torch.float32) in kept(adapted(groups=4, rank=2), x)


def test_q_does_not_hold_on_to_the_maps_beside_it():
    layer = adapted()
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        layer(torch.randn(4, 8, 10))
    (q,) = (t for t in seen if t.shape == (40, 2))
    assert q.untyped_storage().nbytes() == q.nbytes


def test_nothing_is_kept_of_what_nobody_trains():
    layer = adapted()
    layer.update.core.requires_grad_(False)
    assert kept(layer, torch.randn(4, 8, 10)) == set()


def test_a_core_changed_between_forward_and_backward_is_noticed():
    layer = adapted()
    loss = layer(torch.randn(4, 8, 10)).sum()
    with torch.no_grad():
        layer.update.core += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_half_of_q_moves_the_gradient_within_its_rounding(scale):
    exact, rounded = adapted(), adapted()
    rounded.conv, rounded.update = exact.conv, exact.update
    rounded.q_dtype = torch.float16
    x = scale * torch.randn(16, 8, 50)
    magnitude = torch.autograd.grad(exact(x).sum(), exact.update.core)[0]
    ours = torch.autograd.grad(rounded(x).sum(), exact.update.core)[0]
    q = nn.functional.conv1d(x, exact.update.suffix.float(), padding=1).abs().sum(dim=(0, 2))
    assert bool(((ours - magnitude).abs() <= 2**-11 * q + 1e-4 * scale).all())
    assert not torch.equal(ours, magnitude)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
    st.sampled_from([(3, 4), (3, 4, 5), (3, 4, 5, 2)]),
    st.integers(0, 10_000),
)
def test_alone_a_norm_or_an_activation_is_exact(activation, normed, shape, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape).double().requires_grad_()
    expected, wanted, norm = x, [x], None
    if normed and len(shape) > 2:
        module = nn.BatchNorm1d(4) if len(shape) == 3 else nn.BatchNorm2d(4)
        module.double().eval().running_mean.uniform_(1.0, 2.0)
        norm = Norm(module, nn.Parameter(torch.randn(4).double()))
        wanted.append(norm.beta)
        expected = torch.func.functional_call(module, {"bias": norm.beta}, (x,))
    expected = activation(expected)
    layer = LeanPointwise(norm, activation_of(activation))
    torch.testing.assert_close(torch.no_grad()(layer)(x), expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(shape).double()
    theirs = torch.autograd.grad((expected * weight).sum(), wanted)
    for mine, their in zip(
        torch.autograd.grad((layer(x) * weight).sum(), wanted), theirs, strict=True
    ):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-9)


def test_a_hard_sigmoid_is_as_exact_as_torch_whose_sixth_is_of_single_precision():
    z = torch.linspace(-4, 4, 81).double().requires_grad_()
    (theirs,) = torch.autograd.grad(nn.functional.hardsigmoid(z).sum(), z)
    layer = LeanPointwise(activation=activation_of(nn.Hardsigmoid()))
    torch.testing.assert_close(layer(z), nn.functional.hardsigmoid(z))
    (ours,) = torch.autograd.grad(layer(z).sum(), z)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=0)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Hardswish()])
def test_eight_bits_of_a_smooth_derivative_err_by_half_a_step(activation):
    smooth = activation_of(activation, eight_bits=True)
    z = torch.linspace(-8, 8, 4001, requires_grad=True)
    (exact,) = torch.autograd.grad(activation(z).sum(), z)
    value, kept = smooth.forward(z.detach())
    assert kept.dtype == torch.uint8
    assert torch.equal(value, activation(z))
    error = (smooth.backward(torch.ones_like(z), kept) - exact).abs().max()
    assert float(error) <= (smooth.high - smooth.low) / 510 + 1e-6


def test_maps_that_are_computed_beside_the_own_ones_change_nothing():
    # 32 divides the maps, and the kernel is long: the input's gradient gets eight more
    conv = nn.Conv1d(128, 64, 5, padding=2, bias=False).requires_grad_(False)
    update = LowRankUpdate(64, torch.randn(2, 128, 5))
    nn.init.normal_(update.core)
    layer = LeanConvolution(conv, Geometry.of(conv), activation=RELU, update=update)
    x = torch.randn(3, 128, 9, requires_grad=True)
    assert layer.inputs_beside(x) == 8
    expected = torch.relu(nn.functional.conv1d(x, conv.weight + update(), padding=2))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-3)
    wanted = [x, update.core]
    theirs = torch.autograd.grad(expected.sum(), wanted)
    ours = torch.autograd.grad(layer(x).sum(), wanted)
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.shape == their.shape
        torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-2)
