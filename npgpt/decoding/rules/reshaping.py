"""Rules that reshape the distribution: z (V,) -> z (V,), and no token is removed.

-inf stays -inf. What removes tokens by their probability is in
npgpt.decoding.rules.truncation and npgpt.decoding.rules.entropy.
"""

from __future__ import annotations

import math

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import check, entropy, log_probabilities, probabilities
from npgpt.shapes import Logits


@strategy("B1", "temperature", sampling=True, stage="temperature", rank=10)
@fields(aliases=("temp",))
@parameter("temperature", 1.0, "Divides the logits; 0 is greedy.", 0)
@example(temperature=0.5)
def temperature(z: Logits, T: float) -> Logits:
    """Sharper below T = 1, flatter above, greedy search at 0: z / T.

    T = 0 keeps the largest logits, ties too (llama.cpp keeps the first alone, vLLM
    takes greedy search, transformers refuses). Source: Ackley, Hinton and Sejnowski, "A
    Learning Algorithm for Boltzmann Machines" (1985).

    >>> temperature(np.array([1.0, 2.0]), 0.5).tolist()
    [2.0, 4.0]
    """
    top = z.max()
    if 1e-3 < T < 1e30 and abs(top) < 1e30:
        return z / z.dtype.type(T)  # -inf stays -inf, and nothing can overflow
    with np.errstate(all="ignore"):  # the gap to the top cannot become +inf
        scaled = np.where(z > -np.inf, (z - top) / z.dtype.type(T), z)
    return np.where(z == top, z.dtype.type(0), scaled) if np.isfinite(top) else z


@strategy("B2", "dynamic temperature", sampling=True, element="temperature")
@fields(aliases=("temp_ext", "dynatemp"), replaces=True, also=("temperature",))
@parameter("dynatemp_range", 0.0, "Temperature moves this far around `temperature`.", 0)
@parameter("dynatemp_exponent", 1.0, "Curve of the move with the entropy.", 0)
@example(dynatemp_range=0.5)
def dynamic_temperature(z: Logits, spread: float, exponent: float, T: float) -> Logits:
    """Cooler where the model is sure, hotter where it is not: z / T',
    T' = T_lo + (T_hi - T_lo) (H / ln n)^exponent.

    T_lo, T_hi = max(0, T - spread), T + spread; H is the entropy of the n tokens left.
    n counts finite logits, as text-generation-webui and Aphrodite do (llama.cpp: its
    list of candidates). Source: kalomaze (2023), no paper.

    >>> z = np.log(np.array([0.5, 0.5]))
    >>> (dynamic_temperature(z, 0.5, 1, 1.0) / z).round(3).tolist()  # T' = 1.5
    [0.667, 0.667]
    """
    n = int((z > -np.inf).sum())
    if n <= 1:
        return z
    low, high = max(0.0, T - spread), T + spread
    share = min(1.0, entropy(z) / math.log(n))
    return temperature(z, low + (high - low) * share**exponent)


@strategy("B3", "EDT", sampling=True, element="temperature", replaces=True)
@fields(also=("temperature",))
@parameter("edt_theta", 0.0, "Strength; 0 is off.", 0)
@parameter("edt_base", 0.8, "N of the formula.", 0, 1)
@example(edt_theta=0.5)
def edt(z: Logits, theta: float, base: float, T: float) -> Logits:
    """Entropy-based dynamic temperature: z / T', T' = T N^(theta / H), N the base.

    H in nats; H = 0 gives T' = 0, greedy. Source: Zhang et al., "EDT: Improving Large
    Language Models' Generation by Entropy-based Dynamic Temperature Sampling" (2024,
    arXiv:2403.14541).

    >>> z = np.log(np.array([0.5, 0.5]))
    >>> (z / edt(z, math.log(2), 0.8, 1.0)).round(3).tolist()  # H = theta: T' = 0.8
    [0.8, 0.8]
    """
    H = entropy(z)
    return temperature(z, T * base ** (theta / H) if H > 0 else 0.0)


@strategy("B4", "quadratic smoothing", sampling=True, stage="temperature", rank=20)
@fields(aliases=("smoothing",))
@parameter("smoothing_factor", 0.0, "Strength; 0 is off.", 0)
@parameter("smoothing_curve", 1.0, "1 is a parabola.", 1)
@example(smoothing_factor=0.5)
def quadratic(z: Logits, factor: float, curve: float) -> Logits:
    """Gap d to the top logit squared, near rivals come closer, far ones go:
    max z - s ((3 - c)/2 d^2 - (c - 1)/2 d^3), d = z - max z.

    s, c are the factor and the curve. The top is a fixed point, and so is d = -1 at s =
    1. c = 1 is the parabola; c > 1 adds a cubic. The maximum is this row's
    (text-generation-webui takes the batch's). Source: kalomaze (2024), no paper.

    >>> quadratic(np.array([0.0, -1.0, -2.0]), 1.0, 1.0).tolist()
    [0.0, -1.0, -4.0]
    """
    top = check(z)
    d = np.where(z > -np.inf, z - top, z.dtype.type(0))
    with np.errstate(over="ignore"):
        bent = top - factor * ((3 - curve) / 2 * d**2 - (curve - 1) / 2 * d**2 * d)
    return np.where(z > -np.inf, bent, z).astype(z.dtype)


@strategy("B5", "skew", sampling=True, keeps_top=False, stage="last", rank=10)
@parameter("skew", 0.0, "Above 0: towards rarer tokens.")
@example(skew=0.5)
def skew(z: Logits, s: float) -> Logits:
    """Bends the cumulative distribution F towards or from the top: p'_i = F_i^k -
    F_(i-1)^k, k = exp(s).

    F is over p sorted down. The same as drawing with u^exp(-s). Sorted from the top, so
    that the result does not depend on token ids (Aphrodite sorts by id); equal logits
    share their mass equally. Source: turboderp, ExLlamaV2 (no paper).

    >>> np.exp(skew(np.log(np.array([0.5, 0.5])), 1.0)).round(3).tolist()
    [0.5, 0.5]
    >>> np.exp(skew(np.log(np.array([0.8, 0.2])), math.log(2))).round(3).tolist()
    [0.64, 0.36]
    """
    left = np.flatnonzero(z > -np.inf)
    p = probabilities(z)[left]
    order = np.argsort(-p)
    F = np.minimum(np.cumsum(p[order]), 1.0)
    F[-1] = 1.0
    bent = np.diff(F ** math.exp(s), prepend=0.0)
    group = np.cumsum(np.diff(p[order], prepend=p[order[0]]) != 0)
    mean = np.bincount(group, bent) / np.bincount(group)  # ties share their mass
    skewed = np.full(len(z), -np.inf)
    with np.errstate(divide="ignore"):
        skewed[left[order]] = np.log(mean[group])
    return skewed.astype(z.dtype)


@strategy("B6", "logit normalisation", stage="end", element="renormalize")
@parameter("renormalize_logits", False, "Log-softmax at the end.")
@example(renormalize_logits=True)
def normalize(z: Logits, on: bool = True) -> Logits:
    """Logits become log-probabilities, whatever the rules left: z - log sum exp z.

    >>> normalize(np.array([0.0, 0.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    return log_probabilities(z) if on else z


@strategy("B7", "inf and NaN removal", stage="invalid")
@parameter("remove_invalid_values", False, "First of all rules.")
@example(lambda show: show.invalid({"remove_invalid_values": True}))
def remove_invalid(z: Logits, on: bool = True) -> Logits:
    """Numbers that are none become some: NaN -> 0, the infinities -> the largest
    floats.

    It runs before everything else: Hugging Face runs it after the bans and so turns
    them into finite numbers.

    >>> remove_invalid(np.array([np.nan, 1.0])).tolist()
    [0.0, 1.0]
    """
    return np.nan_to_num(z, nan=0.0) if on else z
