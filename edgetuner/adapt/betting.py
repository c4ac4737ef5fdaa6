"""Tests that may be looked at after every label: what a gambler makes of them at fair odds.

At fair odds nothing is won in the mean, so that wealth which began as 1 ever reaches 1 / a with
probability a at most (Ville 1939), however often somebody looks and whenever he stops; a p-value
that is looked at thirty times is wrong far more often than it says.
"""

from __future__ import annotations

from math import exp, lgamma, log, log1p

import numpy as np

_PRECISION = 1e-9  # of a share


def wealth(hits: int, misses: int, share: float = 0.5) -> float:
    """What a gambler has made of 1 who bets that a hit has more than this probability.

    Where it has no more, nothing is won in the mean, whatever came before. The gambler does not
    know the probability q, and spreads the 1 evenly over share < q < 1 (mixtures: Robbins 1970;
    tests by betting: Waudby-Smith & Ramdas 2024, arXiv 2010.09686). With n = hits + misses that is

        int (q / share)^hits ((1 - q) / (1 - share))^misses dq / (1 - share)
        = P(Bin(n + 1, share) <= hits) / ((n + 1) C(n, hits) share^hits (1 - share)^(misses + 1))

    Windows on which both sides are right, or both wrong, bet nothing. It falls as `share` grows.

    Args:
        share: above 0 and below 1.
    """
    n = hits + misses
    k = np.arange(hits + 1)
    ways = np.array([lgamma(n + 2) - lgamma(i + 1) - lgamma(n - i + 2) for i in k])
    terms = ways + k * log(share) + (n + 1 - k) * log1p(-share)
    largest = float(terms.max())
    likely = largest + log(np.exp(terms - largest).sum())
    one = log(n + 1) + lgamma(n + 1) - lgamma(hits + 1) - lgamma(misses + 1)
    one += hits * log(share) + (misses + 1) * log1p(-share)
    return exp(min(likely - one, 700.0))


def least_share(hits: int, misses: int, alpha: float) -> float:
    """The least probability of a hit that is not ruled out: those below it have let a gambler make
    1 / alpha of 1, which happens to the true one with probability `alpha` at most, at whichever
    label it is asked for; 0 where none has.

    It is above one half where `wealth(hits, misses)` is above 1 / alpha, and only there.
    """
    low, high = 0.0, 1.0
    while hits and high - low > _PRECISION:
        share = (low + high) / 2
        ruled_out = wealth(hits, misses, share) * alpha > 1
        low, high = (share, high) if ruled_out else (low, share)
    return low
