"""Tensor-train SVD of a kernel, and the frozen suffix that LoRA-Edge (arXiv 2511.03765) needs.

A kernel is `W (O, I/g, *K)`: one or two spatial dimensions, `g` groups. Everything is computed in
float64 on the CPU with the signs and every random draw fixed, so that every device derives the same
suffix from the same weights.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from edgetuner.errors import ModelError
from edgetuner.peft.svd import leading_triplets

Decomposition = Literal["tt", "full_suffix"]


def suffix(
    weight: Tensor,
    rank: int,
    decomposition: Decomposition = "tt",
    *,
    clip: bool = False,
    known: Tensor | None = None,
    layer: str = "weight",
) -> Tensor:
    """The frozen `S (r, I/g, *K)`, float32, of `W' = W + alpha * G S` with a trained `G (O, r)`.

    `tt` contracts all cores of the tensor train but the first, each truncated to the rank (the
    paper); `full_suffix` takes the leading right singular vectors of `W` as an `O x (I/g K)`
    matrix, times their singular values: as many weights to train, and nothing lost between the
    inner dimensions. The groups of a grouped convolution share the suffix.

    Args:
        weight: kernel `(O, I/g, *K)`.
        rank: r, from 1 to `rank_limit(weight)`.
        clip: take the limit instead of refusing a larger rank.
        known: this kernel's suffix by the same decomposition, computed before. It is taken, not
            computed again, where it has that rank; under `full_suffix` also where it has a larger
            one, whose leading rows are a suffix of a smaller rank: the same where the spectrum
            decays, and else as good, though a smaller sketch finds other digits.
        layer: how to name the kernel in an error.

    Raises:
        ModelError: a rank beyond the limit, an unknown decomposition, a kernel that is not finite,
        a known suffix that is not `(., I/g, *K)`.
    """
    if decomposition not in get_args(Decomposition):
        remedy = f"choose one of {', '.join(get_args(Decomposition))}"
        raise ModelError(
            "no such decomposition", field="decomposition", value=decomposition, remedy=remedy
        )
    matrix = _checked(weight, rank, layer)
    limit = rank_limit(weight)
    if rank > limit and not clip:
        shape = " x ".join(map(str, weight.shape))
        raise ModelError(
            f"layer {layer}, a kernel of {shape}, allows at most {limit}",
            field="rank",
            value=rank,
            remedy="lower the rank, or leave the layer out",
        )
    rank = min(rank, limit)
    if known is not None and _serves(known, rank, decomposition, weight, layer):
        return known[:rank].detach().to("cpu", torch.float32, copy=True).contiguous()
    if decomposition == "full_suffix":
        _, rest = _truncated_svd(matrix.reshape(weight.shape[0], -1), rank)
    else:
        rest = contract(_tensor_train(matrix, rank)[1:]).squeeze(-1)
    return rest.reshape(rank, *weight.shape[1:]).float().contiguous()


def tt_svd(weight: Tensor, rank: int) -> list[Tensor]:
    """Tensor-train cores `(1, n1, r1), (r1, n2, r2), ..., (r, nd, 1)` of a weight, in float32.

    Each inner rank is `rank`, or as many as its unfolding has (Oseledets, SIAM J. Sci. Comput. 33,
    2011, algorithm 1). All cores but the last have orthonormal columns: the last carries the
    singular values.

    Raises:
        ModelError: a rank below 1, or a weight that is not finite.
    """
    return [core.float() for core in _tensor_train(_checked(weight, rank, "weight"), rank)]


def contract(cores: list[Tensor]) -> Tensor:
    """The tensor `(r0, n1, ..., nd, rd)` that a train of cores stands for."""
    tensor = cores[0]
    for core in cores[1:]:
        tensor = torch.tensordot(tensor, core, dims=1)
    return tensor


def rank_limit(weight: Tensor) -> int:
    """The largest rank of a suffix: the lesser side of `W` as an `O x (I/g K)` matrix."""
    return min(weight.shape[0], weight[0].numel())


def _serves(
    known: Tensor, rank: int, decomposition: Decomposition, weight: Tensor, layer: str
) -> bool:
    if not known.ndim or known.shape[1:] != weight.shape[1:]:
        remedy = f"give that of this kernel, (r, {', '.join(map(str, weight.shape[1:]))}), or none"
        raise ModelError(
            "does not fit the kernel",
            field=f"suffixes.{layer}",
            value=tuple(known.shape),
            remedy=remedy,
        )
    # a train of a larger rank is another one throughout: its inner ranks are larger too
    return len(known) == rank or (decomposition == "full_suffix" and len(known) > rank)


def _tensor_train(tensor: Tensor, rank: int) -> list[Tensor]:
    cores, rest, left = [], tensor, 1
    for size in tensor.shape[:-1]:
        basis, rest = _truncated_svd(rest.reshape(left * size, -1), rank)
        cores.append(basis.reshape(left, size, -1))
        left = basis.shape[1]
    return [*cores, rest.reshape(left, -1, 1)]


def _truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """`U (m, r)`, the largest entry of each column made positive, and `diag(s) V (r, n)`."""
    u, s, vh = leading_triplets(matrix, rank)
    largest = u.gather(0, u.abs().argmax(dim=0, keepdim=True))  # (1, r)
    signs = torch.where(largest < 0, -1.0, 1.0).to(u)
    return u * signs, (s * signs[0]).unsqueeze(1) * vh


def _checked(weight: Tensor, rank: int, layer: str) -> Tensor:
    if type(rank) is not int or rank < 1:
        remedy = "give a whole number from 1"
        raise ModelError("not a rank", field="rank", value=rank, remedy=remedy)
    if weight.ndim < 2 or not weight.is_floating_point():
        shape = (*weight.shape, weight.dtype)
        remedy = "give the float kernel of a convolution, output maps first"
        raise ModelError("not a kernel", field=f"layer {layer}", value=shape, remedy=remedy)
    kernel = weight.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(kernel).all()):
        remedy = "restore the weights of the base model"
        raise ModelError("the kernel is not finite", field=f"layer {layer}", remedy=remedy)
    return kernel
