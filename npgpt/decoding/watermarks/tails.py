"""Chances of what a detector counts in unmarked text, over random secrets.

They are exact where a normal number would accuse too often: few tokens, and a green
share far from one half, lean to the right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

Law = np.ndarray  # (n + 1,) the chances of 0, 1, ..., n


def hypergeometric(V: int, K: int, m: int) -> Law:
    """The law of the number of green among m distinct tokens, if K of V are green.

    P(k) = C(K, k) C(V - K, m - k) / C(V, m).

    >>> hypergeometric(4, 2, 2).round(4).tolist()  # 1, 4 and 1 of six pairs
    [0.1667, 0.6667, 0.1667]
    """
    low, high = max(0, m - (V - K)), min(m, K)
    k = np.arange(low, high, dtype=np.float64)
    ratios = (K - k) * (m - k) / ((k + 1) * (V - K - m + k + 1))  # P(k + 1) / P(k)
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    p = np.exp(logs - logs.max())
    law = np.zeros(m + 1)
    law[low : high + 1] = p / p.sum()
    return law


def count_tail(found: int, laws: Iterable[tuple[Law, int]]) -> float:
    """P(sum >= found) of independent counts, each law given with how many have it.

    >>> coin = np.array([0.5, 0.5])
    >>> count_tail(9, [(coin, 10)])  # (10 + 1) / 2^10
    0.0107421875
    """
    total = np.ones(1)
    for law, times in laws:
        while times:  # the law of 1, 2, 4, 8, ... counts
            if times % 2:
                total = np.convolve(total, law)
            times //= 2
            if times:
                law = np.convolve(law, law)
    return min(1.0, float(total[found:].sum()))


def normal_tail(z: float) -> float:
    """P(a standard normal number > z).

    >>> round(normal_tail(1.645), 4)
    0.05
    """
    return math.erfc(z / math.sqrt(2)) / 2


def gamma_tail(n: int, x: float) -> float:
    """P(Gamma(n, 1) > x) = e^-x sum_(k<n) x^k / k! for a whole n.

    >>> round(gamma_tail(1, 2.0), 4)  # e^-2
    0.1353
    """
    if x <= 0:
        return 1.0
    logs = [k * math.log(x) - x - math.lgamma(k + 1) for k in range(n)]
    top = max(logs)
    return min(1.0, math.exp(top) * sum(math.exp(log - top) for log in logs))
