import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgetuner.errors import ModelError  # noqa: E402
from edgetuner.peft.tt import contract, rank_limit, suffix, tt_svd  # noqa: E402

shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(1, 7)),
    st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(1, 4), st.integers(1, 4)),
)


@st.composite
def kernels(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scale = 10.0 ** draw(st.integers(-4, 4))
    return torch.randn(draw(shapes), generator=generator) * scale


@st.composite
def large_kernels(draw, spectra):
    """A kernel that is sketched up to rank 6, with singular values from `spectra` of its number."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    outputs, inputs = draw(st.integers(33, 80)), draw(st.integers(11, 60))
    count = min(outputs, 3 * inputs)
    values = draw(spectra)(torch.arange(count).double())
    left, right = (
        torch.linalg.qr(torch.randn(side, count, generator=generator).double()).Q
        for side in (outputs, 3 * inputs)
    )
    return (left * values @ right.T).float().reshape(outputs, inputs, 3)


def geometric(ratios):
    return ratios.map(lambda ratio: lambda k: ratio**k)


def power(exponents):
    return exponents.map(lambda exponent: lambda k: (k + 1) ** -exponent)


def step(ranks, heights):
    return st.tuples(ranks, heights).map(
        lambda pair: lambda k: torch.where(k < pair[0], 1.0, pair[1]).double()
    )


# decaying in every way, and not at all
any_spectrum = st.one_of(
    geometric(st.floats(0.3, 1)),
    power(st.floats(0, 3)),
    step(st.integers(1, 6), st.floats(0, 1)),
)


def lost(weight, rank):
    """What the best approximation of each unfolding loses of it."""
    unfoldings = (
        weight.double().reshape(weight.shape[:split].numel(), -1) for split in range(1, weight.ndim)
    )
    return [float(torch.linalg.svdvals(m)[rank:].square().sum().sqrt()) for m in unfoldings]


def matrix(tensor):
    return tensor.reshape(len(tensor), -1).double()


def relative_error(approximation, tensor):
    difference = torch.linalg.norm(approximation.double() - tensor.double())
    return float(difference / torch.linalg.norm(tensor.double()))


@settings(max_examples=50, deadline=None)
@given(kernels())
def test_a_train_of_full_rank_is_the_kernel(weight):
    cores = tt_svd(weight, weight.numel())
    assert relative_error(contract(cores).squeeze(0).squeeze(-1), weight) < 1e-5


@settings(max_examples=50, deadline=None)
@given(kernels(), st.integers(1, 5))
def test_the_cores_have_the_ranks_asked_for_and_orthonormal_columns(weight, rank):
    cores = tt_svd(weight, rank)
    left = 1
    for core, size in zip(cores, weight.shape, strict=True):
        assert core.dtype == torch.float32
        assert core.shape[:2] == (left, size)
        assert core.shape[2] <= rank
        left = core.shape[2]
    assert left == 1
    for core in cores[:-1]:
        columns = core.reshape(-1, core.shape[2]).double()
        torch.testing.assert_close(
            columns.T @ columns, torch.eye(core.shape[2]).double(), atol=1e-5, rtol=0
        )


@settings(max_examples=50, deadline=None)
@given(kernels(), st.integers(1, 9))
def test_the_error_of_a_train_is_bounded_by_what_each_unfolding_loses(weight, rank):
    cores = tt_svd(weight, rank)
    error = torch.linalg.norm(contract(cores).squeeze(0).squeeze(-1).double() - weight.double())
    assert float(error) <= math.hypot(*lost(weight, rank)) + 1e-5 * float(weight.norm())


@settings(max_examples=50, deadline=None)
@given(kernels(), st.data())
def test_full_suffix_spans_the_best_approximation_of_its_rank(weight, data):
    rank = data.draw(st.integers(1, rank_limit(weight)))
    s = suffix(weight, rank, "full_suffix")
    assert s.shape == (rank, *weight.shape[1:])
    rows = matrix(s)
    best_core = torch.linalg.lstsq(rows.T, matrix(weight).T, driver="gelsd").solution.T
    error = torch.linalg.norm(best_core @ rows - matrix(weight))
    best = torch.linalg.svdvals(matrix(weight))[rank:].square().sum().sqrt()
    assert float(error - best) <= 1e-5 * float(torch.linalg.norm(weight))


@settings(max_examples=50, deadline=None)
@given(kernels(), st.data())
def test_a_suffix_carries_the_singular_values(weight, data):
    rank = data.draw(st.integers(1, rank_limit(weight)))
    rows = matrix(suffix(weight, rank, "full_suffix"))
    values = torch.linalg.svdvals(matrix(weight))[:rank]
    torch.testing.assert_close(rows.norm(dim=1), values, rtol=1e-5, atol=1e-5 * float(values[0]))


@settings(max_examples=50, deadline=None)
@given(kernels(), st.sampled_from(["tt", "full_suffix"]), st.data())
def test_a_suffix_is_float32_whole_and_the_same_every_time(weight, decomposition, data):
    rank = data.draw(st.integers(1, rank_limit(weight)))
    s = suffix(weight, rank, decomposition)
    assert s.dtype == torch.float32
    assert s.shape == (rank, *weight.shape[1:])
    assert s.is_contiguous()
    assert torch.equal(s, suffix(weight.clone(), rank, decomposition))


@settings(max_examples=50, deadline=None)
@given(kernels())
def test_the_signs_are_fixed(weight):
    first = tt_svd(weight, weight.numel())[0].reshape(len(weight), -1)
    largest = first.gather(0, first.abs().argmax(dim=0, keepdim=True))
    assert bool((largest > 0).all())


@settings(max_examples=50, deadline=None)
@given(kernels())
def test_where_nothing_is_truncated_both_decompositions_agree(weight):
    rank = rank_limit(weight)
    cores = tt_svd(weight, weight.numel())
    whole = contract(cores[1:]).squeeze(-1)
    torch.testing.assert_close(
        whole, suffix(weight, rank, "full_suffix"), rtol=1e-4, atol=1e-5 * float(weight.norm())
    )


@settings(max_examples=50, deadline=None)
@given(kernels(), st.sampled_from(["tt", "full_suffix"]))
def test_a_rank_beyond_the_limit_names_the_layer_or_is_clipped(weight, decomposition):
    limit = rank_limit(weight)
    with pytest.raises(
        ModelError, match=rf"layer stem, a kernel of .*at most {limit} \(got"
    ) as caught:
        suffix(weight, limit + 1, decomposition, layer="stem")
    assert caught.value.field == "rank"
    clipped = suffix(weight, limit + 1, decomposition, clip=True)
    assert torch.equal(clipped, suffix(weight, limit, decomposition))


@settings(max_examples=50, deadline=None)
@given(large_kernels(any_spectrum), st.integers(1, 6))
def test_a_sketched_train_loses_hardly_more_than_its_unfoldings(weight, rank):
    cores = tt_svd(weight, rank)
    error = torch.linalg.norm(contract(cores).squeeze(0).squeeze(-1).double() - weight.double())
    assert float(error) <= 1.05 * math.hypot(*lost(weight, rank)) + 1e-5 * float(weight.norm())
    first = cores[0].squeeze(0).double()
    torch.testing.assert_close(first.T @ first, torch.eye(rank).double(), atol=1e-5, rtol=0)
    assert bool((first.gather(0, first.abs().argmax(dim=0, keepdim=True)) > 0).all())


@settings(max_examples=50, deadline=None)
@given(large_kernels(geometric(st.floats(0.3, 0.6))), st.integers(1, 6))
def test_where_the_spectrum_decays_a_sketched_suffix_is_the_exact_one(weight, rank):
    u, s, vh = torch.linalg.svd(matrix(weight), full_matrices=False)
    signs = u.gather(0, u.abs().argmax(dim=0, keepdim=True)).sign().squeeze(0)
    exact = ((s * signs).unsqueeze(1) * vh)[:rank].reshape(rank, *weight.shape[1:]).float()
    torch.testing.assert_close(suffix(weight, rank, "full_suffix"), exact, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(large_kernels(any_spectrum), st.integers(1, 6), st.sampled_from(["tt", "full_suffix"]))
def test_a_sketched_suffix_is_the_same_every_time(weight, rank, decomposition):
    first = suffix(weight, rank, decomposition)
    state = torch.get_rng_state()
    assert torch.equal(first, suffix(weight.clone(), rank, decomposition))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kernel", [torch.zeros(64, 32, 3), torch.ones(64, 32, 3)])
def test_a_kernel_without_as_many_directions_has_a_suffix_all_the_same(kernel):
    s = suffix(kernel, 4, "full_suffix")
    first = tt_svd(kernel, 4)[0].squeeze(0)
    torch.testing.assert_close(first.T @ first, torch.eye(4), atol=1e-5, rtol=0)
    size = float(kernel.norm())
    torch.testing.assert_close(matrix(s).norm(dim=1).float(), torch.tensor([size, 0, 0, 0]))


@settings(max_examples=50, deadline=None)
@given(kernels(), st.sampled_from(["tt", "full_suffix"]), st.data())
def test_a_suffix_that_is_known_is_computed_no_more_where_its_rank_serves(
    weight, decomposition, data
):
    limit = rank_limit(weight)
    known = suffix(weight, data.draw(st.integers(1, limit)), decomposition) + 1  # to be told apart
    for rank in range(1, limit + 2):
        wanted = min(rank, limit)
        got = suffix(weight, rank, decomposition, clip=True, known=known)
        if len(known) == wanted or (decomposition == "full_suffix" and len(known) > wanted):
            assert torch.equal(got, known[:wanted])
            assert got.data_ptr() != known.data_ptr()
        else:
            assert torch.equal(got, suffix(weight, wanted, decomposition))


@settings(max_examples=20, deadline=None)
@given(large_kernels(geometric(st.floats(0.3, 0.6))), st.integers(1, 6))
def test_the_leading_rows_of_a_full_suffix_are_the_one_of_a_smaller_rank(weight, rank):
    longer = suffix(weight, 6, "full_suffix")
    shorter = suffix(weight, rank, "full_suffix")
    torch.testing.assert_close(longer[:rank], shorter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 4), (2, 4, 3, 1)])
def test_a_known_suffix_of_another_kernel_is_refused_by_name(shape):
    with pytest.raises(ModelError, match=r"suffixes\.stem: does not fit.*\(r, 4, 3\)") as caught:
        suffix(torch.ones(8, 4, 3), 2, known=torch.ones(shape), layer="stem")
    assert caught.value.field == "suffixes.stem"
    with pytest.raises(ModelError, match="at most 8"):
        suffix(torch.ones(8, 4, 3), 9, known=torch.ones(9, 4, 3))


def test_a_depthwise_kernel_has_a_suffix_shared_by_its_groups():
    depthwise = torch.nn.Conv2d(32, 32, 3, groups=32).weight
    assert rank_limit(depthwise) == 9
    assert suffix(depthwise, 4).shape == (4, 1, 3, 3)


def test_half_precision_is_decomposed_in_double():
    weight = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(0)).half()
    s = suffix(weight, 8, "full_suffix")
    assert s.dtype == torch.float32
    torch.testing.assert_close(s, suffix(weight.double(), 8, "full_suffix"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_kernel_that_is_not_finite_is_refused(bad):
    weight = torch.ones(4, 3, 3)
    weight[1, 2, 0] = bad
    for decompose in (tt_svd, suffix):
        with pytest.raises(ModelError, match="not finite"):
            decompose(weight, 2)


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, None])
def test_what_is_no_rank_is_refused(rank):
    with pytest.raises(ModelError) as caught:
        suffix(torch.ones(4, 3, 3), rank)
    assert caught.value.field == "rank"


def test_what_is_no_kernel_or_no_decomposition_is_refused():
    with pytest.raises(ModelError, match="not a kernel"):
        suffix(torch.ones(4), 1)
    with pytest.raises(ModelError, match="not a kernel"):
        suffix(torch.ones(4, 3, 3, dtype=torch.int64), 1)
    with pytest.raises(ModelError, match="tt, full_suffix"):
        suffix(torch.ones(4, 3, 3), 1, "tucker")
