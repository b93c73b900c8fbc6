"""How far another draw of as many texts would move a figure: jackknife and Student's t.

Pure statistics of any draws; what is drawn, and what is measured of it, stands in
npgpt.lab.measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# 97.5 % quantiles of Student's t. Straight lines between them over 1/df lie above the
# curve, so an interval is never too narrow for it.
_DF = (1, 2, 3, 4, 5, 6, 8, 10, 15, 30, 60, math.inf)
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3060, 2.2281, 2.1314, 2.0423,
      2.0003, 1.9600)  # fmt: skip


class Interval(NamedTuple):
    """A figure with its 95 % confidence interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


class Estimate(NamedTuple):
    """A statistic of n draws with the variance that the jackknife gives it."""

    value: float
    variance: float
    df: int


def jackknife(statistic: Callable[[Sequence], float], draws: Sequence) -> Estimate:
    """A statistic, and its variance from leaving out one draw at a time.

    variance = (n - 1)/n sum_i (s_i - mean s)^2, with s_i the statistic without draw i.
    No draw is there twice, as it is in a bootstrap, where copies pass for a lack of
    diversity. Source: Tukey 1958; Efron and Stein, "The Jackknife Estimate of Variance"
    (1981).

    >>> [round(x, 4) for x in jackknife(np.mean, [1.0, 2.0, 3.0, 4.0])]  # s^2 / n
    [2.5, 0.4167, 3]
    """
    draws = list(draws)
    left_out = [statistic(draws[:i] + draws[i + 1 :]) for i in range(len(draws))]
    return estimate(float(statistic(draws)), left_out)


def estimate(value: float, left_out: Sequence[float] | np.ndarray) -> Estimate:
    """A statistic with the variance that follows from leaving out each draw in turn."""
    n, x = len(left_out), np.asarray(left_out, np.float64)
    variance = float((n - 1) / n * ((x - x.mean()) ** 2).sum())
    return Estimate(value, variance, n - 1)


def interval(
    estimates: Sequence[Estimate], low: float = -math.inf, high: float = math.inf
) -> Interval:
    """The mean of independent estimates, with Student's 95 % interval in [low, high].

    mean +- t_df sqrt(sum v_i) / P, with df = (sum v_i)^2 / sum (v_i^2 / df_i). Sources:
    Student (1908); Welch (1947), for df.

    >>> [round(x, 3) for x in interval([Estimate(2.5, 0.41667, 3)])]
    [2.5, 0.446, 4.554]
    """
    mean = float(np.mean([e.value for e in estimates]))
    v = np.array([e.variance for e in estimates])
    total = float(v.sum())
    if total == 0:
        return Interval(mean, mean, mean)
    if math.isnan(total):
        return Interval(mean, math.nan, math.nan)
    df = total**2 / float((v**2 / [e.df for e in estimates]).sum())
    reach = student_t(df) * math.sqrt(total) / len(estimates)
    return Interval(mean, max(low, mean - reach), min(high, mean + reach))


def student_t(df: float) -> float:
    """97.5 % quantile of Student's t, never too small; df >= 1, not always whole.

    >>> student_t(4), round(student_t(12), 3)
    (2.7764, 2.18)
    """
    x = [1 / d for d in _DF]
    return float(np.interp(1 / df, x[::-1], _T[::-1]))
