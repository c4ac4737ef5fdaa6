import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgetuner.peft import svd  # noqa: E402
from edgetuner.peft.svd import leading_triplets  # noqa: E402


def of_spectrum(seed, rows, columns, spectrum):
    """A matrix of these singular values."""
    generator = torch.Generator().manual_seed(seed)
    count = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(side, count, generator=generator).double()).Q
        for side in (rows, columns)
    )
    return left * spectrum(torch.arange(count).double()) @ right.T


def geometric(ratio):
    return lambda k: ratio**k


spectra = st.one_of(
    st.floats(0.3, 1).map(geometric),
    st.floats(0, 3).map(lambda exponent: lambda k: (k + 1) ** -exponent),
    st.tuples(st.integers(1, 6), st.floats(0, 1)).map(
        lambda pair: lambda k: torch.where(k < pair[0], 1.0, pair[1]).double()
    ),
)
sides = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), sides, sides, spectra, st.integers(1, 100))
def test_the_triplets_are_orthonormal_in_order_and_as_many_as_there_are(
    seed, rows, columns, spectrum, rank
):
    u, s, v = leading_triplets(of_spectrum(seed, rows, columns, spectrum), rank)
    kept = min(rank, rows, columns)
    assert (u.shape, s.shape, v.shape) == ((rows, kept), (kept,), (kept, columns))
    eye = torch.eye(kept).double()
    torch.testing.assert_close(u.T @ u, eye)
    torch.testing.assert_close(v @ v.T, eye)
    assert bool((s >= 0).all() and (s.diff() <= 0).all())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), sides, sides, spectra, st.integers(1, 30))
def test_a_truncation_loses_hardly_more_than_the_best(seed, rows, columns, spectrum, rank):
    matrix = of_spectrum(seed, rows, columns, spectrum)
    u, s, v = leading_triplets(matrix, rank)
    best = float(torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt())
    size = float(matrix.norm())
    assert float((matrix - u * s @ v).norm()) <= 1.05 * best + 1e-9 * size
    # what it says of the matrix is true of it: it finds no direction that is not there
    torch.testing.assert_close((u.T @ matrix).norm(dim=1), s, rtol=1e-6, atol=1e-9 * size)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.3, 0.6), st.integers(1, 6), st.booleans())
def test_where_the_spectrum_decays_a_sketch_finds_the_exact_ones(seed, ratio, rank, tall):
    shape = (80, 50) if tall else (50, 80)
    matrix = of_spectrum(seed, *shape, geometric(ratio))
    u, s, v = leading_triplets(matrix, rank)
    torch.testing.assert_close(s, ratio ** torch.arange(rank).double())
    torch.testing.assert_close(matrix @ v.T, u * s, rtol=1e-6, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(40, 90), spectra, st.integers(1, 8))
def test_it_is_the_same_every_time_and_draws_from_nobody_elses_numbers(seed, rows, spectrum, rank):
    matrix = of_spectrum(seed, rows, 60, spectrum)
    first = leading_triplets(matrix, rank)
    torch.manual_seed(seed % 1000)
    state = torch.get_rng_state()
    again = leading_triplets(matrix.clone(), rank)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_sketch_is_taken_only_where_it_is_less_than_half_the_matrix(monkeypatch):
    taken = []
    sketch = svd._range
    monkeypatch.setattr(svd, "_range", lambda m, n: taken.append((*m.shape, n)) or sketch(m, n))
    for rows in (28, 29, 64):
        leading_triplets(torch.ones(rows, 96).double(), 4)
    assert taken == [(29, 96, 14), (64, 96, 14)]


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(64, 96), (8, 9)])
def test_a_matrix_without_as_many_directions_has_triplets_all_the_same(value, shape):
    matrix = torch.full(shape, value).double()
    u, s, v = leading_triplets(matrix, 4)
    torch.testing.assert_close(u * s @ v, matrix)
    torch.testing.assert_close(u.T @ u, torch.eye(4).double())
    torch.testing.assert_close(s[1:], torch.zeros(3).double())
