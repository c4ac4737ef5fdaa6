import pytest

torch = pytest.importorskip("torch")

from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgetuner.peft.pooling import LeanAvgPool, LeanMaxPool, mean_pool  # noqa: E402


@st.composite
def options(draw):
    kernel = draw(st.integers(1, 4))
    return {
        "kernel_size": kernel,
        "stride": draw(st.integers(1, 4)),
        "padding": draw(st.integers(0, kernel // 2)),
        "ceil_mode": draw(st.booleans()),
    }


def compare(lean, plain, dims):
    x = torch.randn(2, 3, *(13, 11)[:dims]).double().requires_grad_()
    expected = plain(x)
    torch.testing.assert_close(lean(x), expected)
    weight = torch.randn(expected.shape).double()
    (theirs,) = torch.autograd.grad((expected * weight).sum(), x)
    for layout in (torch.contiguous_format, torch.channels_last)[:dims]:
        inner = x.detach().contiguous(memory_format=layout).requires_grad_()
        (ours,) = torch.autograd.grad((lean(inner) * weight).sum(), inner)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(options(), st.integers(1, 3), st.integers(1, 2))
def test_max_pooling_is_exact(drawn, dilation, dims):
    assume(dilation * (drawn["kernel_size"] - 1) < 11)
    pool = (nn.MaxPool1d, nn.MaxPool2d)[dims - 1](**drawn, dilation=dilation)
    compare(LeanMaxPool.of(pool), pool, dims)


@settings(max_examples=60, deadline=None)
@given(options(), st.booleans(), st.integers(1, 2))
def test_average_pooling_is_exact(drawn, count_include_pad, dims):
    pool = (nn.AvgPool1d, nn.AvgPool2d)[dims - 1](**drawn, count_include_pad=count_include_pad)
    compare(LeanAvgPool.of(pool), pool, dims)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_mean_is_adaptive_pooling_to_one(dims):
    compare(mean_pool, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[dims - 1](1), dims)


def test_a_byte_for_each_maximum_and_nothing_of_a_mean_is_kept():
    seen = []
    x = torch.randn(2, 3, 12, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        LeanMaxPool.of(nn.MaxPool1d(2))(x)
        LeanAvgPool.of(nn.AvgPool1d(2))(x)
    assert [(t.dtype, t.numel()) for t in seen] == [(torch.uint8, 2 * 3 * 6)]
