"""A linear head in closed form: ridge regression on one-hot labels, tested by leave-one-out.

Forward passes only. From some twenty labels a class it comes close to fine-tuning the whole
network, and its leave-one-out scores are exact (PRESS, Allen 1974), so they choose the
regularisation and calibrate the confidences without a window held back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from edgetuner.errors import DataError, UsageError
from edgetuner.peft.svd import leading_triplets

LAMBDAS = tuple(10.0**exponent for exponent in range(-6, 3))

# below this a row alone decides its own prediction, and leaving it out is undefined
_LEAST_FREEDOM = 1e-10


@dataclass(frozen=True)
class RidgeHead:
    """A head for D features and K classes, with what it says of rows that it has not seen.

    Attributes:
        weight: `(K, D)`, in the dtype of the features, the temperature folded in.
        bias: `(K,)`, likewise.
        lambda_: the regularisation chosen, relative to the mean variance of a feature.
        temperature: what the regression was divided by to make logits of it.
        press: weighted mean squared error of the regression, each judged row left out in turn.
        loo_error: weighted share of judged rows misclassified when left out. Too good by some
            points if the features were trained on the same labels.
        loo_scores: `(N, K)` float64, the logits of each row from a head that never saw it.
        loo_squares: `(N,)` float64, squared error of the regression for each row left out.
    """

    weight: Tensor
    bias: Tensor
    lambda_: float
    temperature: float
    press: float
    loo_error: float
    loo_scores: Tensor
    loo_squares: Tensor


@torch.no_grad()
def principal_directions(features: Tensor, rank: int) -> Tensor:
    """The `rank` directions in which features `(N, D)` vary most, `(D, rank)`, orthonormal.

    A head on them is a head on all of `D` by one product, and trains `K (rank + 1)` weights instead
    of `K (D + 1)`: what the frozen suffix is to a convolution. No label has a say in them, so
    leaving a row out of the regression stays exact. Fewer where the features allow no more.
    """
    z = features.detach().to("cpu", torch.float64)
    return leading_triplets(z - z.mean(dim=0), rank)[2].T


@torch.no_grad()
def solve(
    features: Tensor,
    y: Tensor,
    classes: int,
    weights: Tensor | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    judged: Tensor | None = None,
    *,
    intercept: bool = True,
) -> RidgeHead:
    """Ridge regression `B z + b` on one-hot labels, with the lambda of the least PRESS.

    With `p_i` the row weights as shares of 1, it minimises
    `sum_i p_i |onehot(y_i) - B z_i - b|^2 + lambda v |B|^2`, where `v` is the weighted variance of
    a feature, averaged over the features: a grid of lambdas suits features of any scale, and `b` is
    not penalised. When a row is left out, the other terms stay as they are. One SVD in float64
    serves the whole grid, collinear features, and fewer rows than features.

    Args:
        features: z, `(N, D)`, finite.
        y: class indices, `(N,)`.
        classes: K. Each needs a row: where the target has no window of a class, add rows of the
            source (its exemplars, with a small weight).
        weights: of the rows, `(N,)`, positive; equal if None.
        lambdas: grid to choose from, each above 0.
        judged: `(N,)` bool, the rows whose errors choose lambda and temperature; all if None.
            Others, such as those of the source, only help to fit.
        intercept: False for a head without a bias; `b` is then 0.

    Raises:
        DataError: features, labels or weights that do not fit, or a class without a row.
        UsageError: a grid that is empty or not positive.
    """
    _check(features, y, classes, weights, lambdas)
    labels = y.detach().to("cpu", torch.int64)
    share = torch.ones(len(y)) if weights is None else weights.detach()
    share = share.to("cpu", torch.float64) / share.sum(dtype=torch.float64).cpu()
    counts = share if judged is None else torch.where(judged.cpu(), share, 0.0)
    counts = counts / counts.sum()
    ridge = _Ridge(
        features.detach().to("cpu", torch.float64), one_hot(labels, classes), share, intercept
    )

    trials = [(*ridge.leave_one_out(lambda_, counts), lambda_) for lambda_ in lambdas]
    press, scores, lambda_ = min(trials, key=lambda trial: trial[0])
    if not math.isfinite(press):
        remedy = "add rows, even out the weights, or raise the lambdas"
        shape = tuple(features.shape)
        raise DataError("a row decides alone", field="features", value=shape, remedy=remedy)

    temperature = _temperature(scores, labels, counts)
    weight, bias = ridge.coefficients(lambda_)
    return RidgeHead(
        weight=(weight / temperature).to(features.dtype),
        bias=(bias / temperature).to(features.dtype),
        lambda_=lambda_,
        temperature=temperature,
        press=press,
        loo_error=float(counts @ (scores.argmax(dim=1) != labels).double()),
        loo_scores=scores / temperature,
        loo_squares=(ridge.targets - scores).square().sum(dim=1),
    )


class _Ridge:
    """The regression taken apart once, so that each lambda costs two small products."""

    def __init__(self, z: Tensor, targets: Tensor, share: Tensor, intercept: bool) -> None:
        self.z, self.targets, self.share = z, targets.double(), share
        self.z_mean, self.target_mean = share @ z, share @ self.targets
        self.of_intercept = share  # what a row adds to its own prediction by way of `b`
        if not intercept:
            self.z_mean, self.target_mean = 0 * self.z_mean, 0 * self.target_mean
            self.of_intercept = 0 * share
        root = share.sqrt().unsqueeze(1)
        self.u, s, self.vh = torch.linalg.svd(root * (z - self.z_mean), full_matrices=False)
        # what is left of constant or collinear features after centring is rounding, not a direction
        rounding = torch.finfo(s.dtype).eps * max(z.shape) * torch.linalg.norm(root * z)
        self.s = torch.where(s > rounding, s, 0.0)
        self.variance = self.s.square().sum() / z.shape[1]
        self.projected = self.u.T @ (root * (self.targets - self.target_mean))  # (J, K)

    def coefficients(self, lambda_: float) -> tuple[Tensor, Tensor]:
        """`B (K, D)` and `b (K,)`."""
        gain = torch.where(self.s > 0, self.s / (self.s.square() + lambda_ * self.variance), 0.0)
        weight = ((self.vh.T * gain) @ self.projected).T
        return weight, self.target_mean - weight @ self.z_mean

    def leave_one_out(self, lambda_: float, counts: Tensor) -> tuple[float, Tensor]:
        """PRESS over the rows as they count, and the score `(N, K)` of each row by a regression
        without it.

        Leaving row i out turns its residual `e_i` into `e_i / (1 - h_i)`, where `h_i` is what the
        row contributes to its own prediction: exact by Sherman and Morrison, weights included.
        """
        weight, bias = self.coefficients(lambda_)
        residuals = self.targets - self.z @ weight.T - bias
        power = self.s.square()
        shrink = torch.where(power > 0, power / (power + lambda_ * self.variance), 0.0)
        freedom = 1.0 - self.of_intercept - self.u.square() @ shrink  # 1 - h
        if float(freedom.min()) < _LEAST_FREEDOM:
            return math.inf, self.targets
        residuals = residuals / freedom.unsqueeze(1)
        return float(counts @ residuals.square().sum(dim=1)), self.targets - residuals


def _temperature(scores: Tensor, labels: Tensor, share: Tensor) -> float:
    """The temperature of the least weighted cross-entropy (Guo et al., arXiv 1706.04599).

    Labels are smoothed by one in N + K, as Platt did, or scores without an error would ask for a
    temperature of 0. The loss is convex in `1 / temperature`, so its slope is bisected.
    """
    rows, classes = scores.shape
    smooth = 1.0 / (rows + classes)
    targets = one_hot(labels, classes) * (1.0 - classes * smooth) + smooth

    def slope(inverse: float) -> float:
        surplus = torch.softmax(inverse * scores, dim=1) - targets
        return float(share @ (surplus * scores).sum(dim=1))

    low, high = math.log(1e-3), math.log(1e3)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-low)


def _check(
    features: Tensor, y: Tensor, classes: int, weights: Tensor | None, lambdas: Sequence[float]
) -> None:
    if features.ndim != 2 or 0 in features.shape or not features.is_floating_point():
        shape = (*features.shape, features.dtype)
        raise DataError("not a float matrix", field="features", value=shape, remedy="give (N, D)")
    if not bool(torch.isfinite(features).all()):
        remedy = "leave out rows with NaN or infinity"
        raise DataError("not finite", field="features", remedy=remedy)
    for field, tensor in (("y", y), ("weights", weights)):
        if tensor is not None and tensor.shape != features.shape[:1]:
            remedy = f"give one for each of the {len(features)} rows"
            raise DataError("wrong shape", field=field, value=tuple(tensor.shape), remedy=remedy)
    if weights is not None and not bool((torch.isfinite(weights) & (weights > 0)).all()):
        remedy = "leave out rows without weight"
        raise DataError("not positive and finite", field="weights", remedy=remedy)
    present = set(y.tolist())
    if y.is_floating_point() or not present <= set(range(classes)):
        remedy = f"give class indices from 0 to {classes - 1}"
        raise DataError("unknown classes", field="y", value=sorted(present), remedy=remedy)
    if missing := sorted(set(range(classes)) - present):
        remedy = "add exemplars of the source for them"
        raise DataError("classes without a row", field="y", value=missing, remedy=remedy)
    if not lambdas or not all(0.0 < value < math.inf for value in lambdas):
        remedy = "give numbers above 0"
        raise UsageError("not a grid", field="lambdas", value=lambdas, remedy=remedy)
