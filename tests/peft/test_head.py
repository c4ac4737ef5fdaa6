import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgetuner.errors import DataError, UsageError  # noqa: E402
from edgetuner.peft.head import LAMBDAS, principal_directions, solve  # noqa: E402


def rows(seed, n, d, classes, scale=1.0):
    """Features with some class structure, labels that hold every class, and uneven weights."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=generator).double()
    z = scale * (centres[y] + torch.randn(n, d, generator=generator).double() + 3.0)
    weights = torch.rand(n, generator=generator).double() + 0.1
    return z, y, weights


def brute_force(z, targets, share, penalty):
    """Augmented least squares on `[1 z]`: not the way of the code."""
    n, d = z.shape
    root = share.sqrt().unsqueeze(1)
    design = torch.cat([torch.ones(n, 1).double(), z], dim=1) * root
    ridge = torch.cat([torch.zeros(d, 1).double(), torch.eye(d).double()], dim=1) * penalty**0.5
    right = torch.cat([targets * root, torch.zeros(d, targets.shape[1]).double()])
    solution = torch.linalg.lstsq(torch.cat([design, ridge]), right, driver="gelsd").solution
    return solution[1:].T, solution[0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(6, 25),
    d=st.integers(1, 12),
    classes=st.integers(2, 3),
    lambda_=st.sampled_from([1e-3, 1e-1, 1.0, 10.0]),
    weighted=st.booleans(),
)
def test_press_is_leaving_every_row_out_by_force(seed, n, d, classes, lambda_, weighted):
    z, y, weights = rows(seed, n, d, classes)
    head = solve(z, y, classes, weights if weighted else None, [lambda_])
    share = weights / weights.sum() if weighted else torch.ones(n).double() / n
    targets = torch.nn.functional.one_hot(y, classes).double()
    penalty = lambda_ * float((share @ (z - share @ z).square()).mean())

    weight, bias = brute_force(z, targets, share, penalty)
    torch.testing.assert_close(head.weight * head.temperature, weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(head.bias * head.temperature, bias, rtol=0, atol=1e-8)

    left_out = torch.empty_like(targets)
    for i in range(n):
        kept = torch.arange(n) != i
        weight, bias = brute_force(z[kept], targets[kept], share[kept], penalty)
        left_out[i] = weight @ z[i] + bias
    torch.testing.assert_close(head.loo_scores * head.temperature, left_out, rtol=0, atol=1e-8)
    press = float(share @ (targets - left_out).square().sum(dim=1))
    assert head.press == pytest.approx(press, abs=1e-8)
    assert head.loo_error == pytest.approx(float(share @ (left_out.argmax(1) != y).double()))


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_lambda_of_the_least_press_is_chosen(seed):
    z, y, weights = rows(seed, 20, 8, 3)
    chosen = solve(z, y, 3, weights)
    alone = {lambda_: solve(z, y, 3, weights, [lambda_]).press for lambda_ in LAMBDAS}
    assert chosen.lambda_ == min(alone, key=alone.__getitem__)
    assert chosen.press == pytest.approx(min(alone.values()))


@given(st.integers(0, 2**32), st.sampled_from([1e-3, 1e4]))
@settings(max_examples=20, deadline=None)
def test_the_scale_of_features_and_weights_changes_nothing(seed, scale):
    z, y, weights = rows(seed, 20, 6, 3)
    one, other = solve(z, y, 3, weights), solve(z * scale, y, 3, weights * scale)
    assert one.lambda_ == other.lambda_
    torch.testing.assert_close(one.loo_scores, other.loo_scores, rtol=1e-7, atol=1e-7)


def test_confidences_mean_what_they_say():
    z, y, _ = rows(7, 2000, 5, 4)
    head = solve(z[:1000], y[:1000], 4)
    for logits, labels in (
        (head.loo_scores, y[:1000]),
        (z[1000:] @ head.weight.T + head.bias, y[1000:]),
    ):
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        accuracy = (predicted == labels).double().mean()
        assert abs(float(confidence.mean() - accuracy)) < 0.04


def test_the_temperature_is_the_best_there_is():
    z, y, weights = rows(3, 400, 5, 4)
    head = solve(z, y, 4, weights)

    def loss(factor):
        losses = torch.nn.functional.cross_entropy(factor * head.loo_scores, y, reduction="none")
        return float(weights @ losses)

    # the smoothing of the labels moves the optimum by a percent or so
    assert loss(1.0) < loss(0.8)
    assert loss(1.0) < loss(1.25)


def test_separable_rows_are_sure_but_not_infinitely_so():
    y = torch.arange(40) % 2
    z = torch.nn.functional.one_hot(y, 2).double() * 5
    head = solve(z, y, 2)
    assert head.loo_error == 0.0
    confidence = head.loo_scores.softmax(dim=1).max(dim=1).values
    assert float(confidence.max()) < 1 - 0.5 / 42
    assert float(confidence.min()) > 0.9


def test_rows_without_information_get_no_confidence():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(300, 3, generator=generator)
    y = torch.randint(0, 3, (300,), generator=generator)
    confidence = solve(z, y, 3).loo_scores.softmax(dim=1).max(dim=1).values
    assert float(confidence.max()) < 0.5


@pytest.mark.parametrize(
    "z",
    [
        torch.full((12, 4), 0.1),
        torch.ones(12, 1) @ torch.ones(1, 4) * torch.arange(12).unsqueeze(1),
        torch.randn(12, 300, generator=torch.Generator().manual_seed(0)),
        torch.zeros(12, 2),
    ],
    ids=["constant", "collinear", "fewer rows than features", "zero"],
)
def test_singular_systems_have_an_answer(z):
    head = solve(z, torch.arange(12) % 2, 2)
    assert head.weight.dtype == z.dtype
    assert bool(torch.isfinite(head.weight).all() and torch.isfinite(head.bias).all())
    assert math.isfinite(head.press)


def test_constant_features_are_answered_with_the_frequencies():
    head = solve(torch.full((10, 4), 0.1).double(), torch.tensor([0] * 7 + [1] * 3), 2)
    assert not bool(head.weight.any())
    regression = head.bias * head.temperature
    torch.testing.assert_close(regression, torch.tensor([0.7, 0.3]).double())


def test_a_pseudo_row_stands_in_for_a_class_that_is_missing():
    z, y, _ = rows(1, 20, 4, 2)
    with pytest.raises(DataError, match="exemplars of the source") as caught:
        solve(z, y, 3)
    assert caught.value.field == "y"
    exemplars = torch.eye(4).repeat(3, 1).double() - 9
    weights = torch.cat([torch.ones(20), torch.full((12,), 0.3)])
    head = solve(torch.cat([z, exemplars]), torch.cat([y, torch.full((12,), 2)]), 3, weights)
    assert (exemplars @ head.weight.T + head.bias).argmax(dim=1).tolist() == [2] * 12


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"features": torch.zeros(6)}, "features"),
        ({"features": torch.zeros(6, 0)}, "features"),
        ({"features": torch.zeros(6, 2, dtype=torch.int64)}, "features"),
        ({"features": torch.full((6, 2), float("nan"))}, "features"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, "y"),
        ({"y": torch.tensor([0, 1, 2, 0, 1, 0])}, "y"),
        ({"y": torch.tensor([0, 1, -1, 0, 1, 0])}, "y"),
        ({"y": torch.tensor([0.0, 1, 0, 1, 0, 1])}, "y"),
        ({"weights": torch.ones(5)}, "weights"),
        ({"weights": torch.tensor([1.0, 1, 1, 1, 1, 0])}, "weights"),
        ({"weights": torch.full((6,), float("inf"))}, "weights"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_field(change, field):
    arguments = {"features": torch.randn(6, 2), "y": torch.arange(6) % 2, "classes": 2} | change
    with pytest.raises(DataError) as caught:
        solve(**arguments)
    assert caught.value.field == field


def test_a_row_that_decides_alone_is_refused():
    z, y, _ = rows(1, 6, 2, 2)
    weights = torch.tensor([1e14, 1, 1, 1, 1, 1]).double()
    with pytest.raises(DataError, match="decides alone"):
        solve(z, y, 2, weights)


@pytest.mark.parametrize("lambdas", [[], [0.0], [1.0, -1.0], [float("nan")], [float("inf")]])
def test_a_grid_that_makes_no_sense_is_refused(lambdas):
    z, y, _ = rows(1, 6, 2, 2)
    with pytest.raises(UsageError):
        solve(z, y, 2, lambdas=lambdas)


# ------------------------------------------------------------------ who is judged


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lambda_=st.sampled_from([1e-3, 1e-1, 10.0]),
    pattern=st.lists(st.booleans(), min_size=20, max_size=20).filter(any),
)
def test_rows_that_are_not_judged_fit_but_do_not_count(seed, lambda_, pattern):
    z, y, weights = rows(seed, 20, 5, 3)
    judged = torch.tensor(pattern)
    some, all_ = (solve(z, y, 3, weights, [lambda_], judged=who) for who in (judged, None))
    # the regression is the same, and so is what it says of each row left out
    for one, other in ((some.weight, all_.weight), (some.bias, all_.bias)):
        torch.testing.assert_close(one * some.temperature, other * all_.temperature)
    torch.testing.assert_close(some.loo_squares, all_.loo_squares)
    share = weights[judged] / weights[judged].sum()
    assert some.press == pytest.approx(float(share @ all_.loo_squares[judged]))
    wrong = (all_.loo_scores.argmax(1) != y)[judged]
    assert some.loo_error == pytest.approx(float(share @ wrong.double()))


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_lambda_is_the_best_for_those_that_are_judged(seed):
    z, y, weights = rows(seed, 24, 8, 3)
    judged = torch.arange(24) < 8
    chosen = solve(z, y, 3, weights, judged=judged)
    alone = {at: solve(z, y, 3, weights, [at], judged=judged).press for at in LAMBDAS}
    assert chosen.lambda_ == min(alone, key=alone.__getitem__)


def test_the_confidence_is_fitted_to_those_that_are_judged():
    """Half of the rows have labels by chance; the other half are of classes far apart."""
    y = torch.arange(400) % 2
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, 3, generator=generator).double()
    clear = torch.arange(400) < 200
    z[:, 0] += torch.where(clear, 8.0 * y - 4.0, 0.0)
    sure, unsure = (solve(z, y, 2, judged=who) for who in (clear, ~clear))
    assert sure.loo_error == 0.0 and unsure.loo_error > 0.3
    confidence = [head.loo_scores[clear].softmax(1).max(1).values.mean() for head in (sure, unsure)]
    assert confidence[0] > 0.95 > 0.8 > confidence[1]


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_squares_are_those_of_the_scores_left_out(seed):
    z, y, weights = rows(seed, 15, 4, 3)
    head = solve(z, y, 3, weights)
    targets = torch.nn.functional.one_hot(y, 3)
    squares = (head.loo_scores * head.temperature - targets).square().sum(dim=1)
    torch.testing.assert_close(head.loo_squares, squares)
    assert head.press == pytest.approx(float(weights / weights.sum() @ squares))


# ------------------------------------------------------------------ directions of the features


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32), n=st.integers(2, 60), d=st.integers(1, 80), rank=st.integers(1, 40)
)
def test_principal_directions_are_orthonormal_and_keep_the_most_of_the_variance(seed, n, d, rank):
    generator = torch.Generator().manual_seed(seed)
    spectrum = 0.8 ** torch.arange(d)
    z = torch.randn(n, d, generator=generator) * spectrum + 50.0
    basis = principal_directions(z, rank)
    kept = min(rank, n, d)
    assert basis.shape == (d, kept) and basis.dtype == torch.float64
    torch.testing.assert_close(basis.T @ basis, torch.eye(kept).double())
    centred = z.double() - z.double().mean(dim=0)
    best = torch.linalg.svdvals(centred)[:kept].square().sum()
    assert float((centred @ basis).square().sum()) >= 0.99 * float(best)
    torch.testing.assert_close(principal_directions(z, rank), basis, rtol=0, atol=0)


def test_a_head_on_principal_directions_is_a_head_on_all_features():
    z, y, _ = rows(5, 60, 12, 3)
    basis = principal_directions(z, 12)
    torch.testing.assert_close(basis @ basis.T, torch.eye(12).double())
    # in all directions nothing is lost: the penalty does not know a rotation
    whole, turned = solve(z, y, 3), solve(z @ basis, y, 3)
    torch.testing.assert_close(turned.weight @ basis.T, whole.weight)
    torch.testing.assert_close(turned.loo_scores, whole.loo_scores)


def test_where_features_lie_in_few_directions_a_head_on_those_is_the_same():
    z, y, _ = rows(6, 40, 4, 3)
    generator = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(30, 4, generator=generator).double()).Q
    embedded = z @ frame.T + 2.0
    basis = principal_directions(embedded, 4)
    lambdas = [0.1]
    few = solve(embedded @ basis, y, 3, lambdas=lambdas)
    # the mean variance is of 4 features, not of 30
    all_ = solve(embedded, y, 3, lambdas=[0.1 * 30 / 4])
    torch.testing.assert_close(few.weight @ basis.T, all_.weight, atol=1e-8, rtol=1e-6)
