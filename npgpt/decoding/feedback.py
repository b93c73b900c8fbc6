"""Selectors with feedback: mirostat, mirostat 2.0, adaptive-p.

Each takes a uniform number a token and its state, a number or two, and returns the
token and the next state. A state is a value: beams copy it, and going back restores it.
"""

from __future__ import annotations

import math

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import log_probabilities, probabilities
from npgpt.decoding.rules.entropy import minimal_surprise
from npgpt.decoding.rules.truncation import top_k
from npgpt.decoding.selectors import gumbel_max
from npgpt.shapes import Float, Logits


@strategy("C15", "mirostat", kind="selector", sampling=True, when=("mirostat", 1))
@parameter("mirostat", (0, 1, 2), "Version; 0 is off.")
@parameter("mirostat_tau", 5.0, "Target surprise in bits.", 0)
@parameter("mirostat_eta", 0.1, "Learning rate.", 0)
@parameter("mirostat_m", 100, "Tokens that estimate the slope.", 2)
@fields(start=lambda context, tau, *rest: 2 * tau)
@example(mirostat=1, mirostat_tau=1.0)
def mirostat(
    z: Logits, us: Float[np.ndarray, " V"], mu: float, tau: float, eta: float, m: int
) -> tuple[int, float]:
    """Keeps the surprise S of the text at tau bits, by a top-k: k = (eps 2^mu / (1 -
    V^-eps))^(1/s), eps = s - 1; mu' = mu - eta (S - tau).

    Returns the token and mu'. Zipf's exponent s is fitted to the m best of p sorted
    down, s = sum t b / sum t^2, t_i = ln((i+2)/(i+1)), b_i = ln(p_i / p_(i+1)); V is
    the vocabulary and S = -log2 p(token) after truncation, as in llama.cpp (the authors
    take p before it, and k one higher). mu starts at 2 tau. A flat top (s = 0) keeps
    all; eps = 0 takes the limit k = (2^mu / ln V)^(1/s). Source: Basu et al.,
    "Mirostat" (2020, arXiv:2007.14966).

    >>> z = np.log(np.array([0.6, 0.2, 0.1, 0.06, 0.04]))
    >>> id, mu = mirostat(z, np.full(5, 0.5), 2.0, 1.0, 0.1, 100)
    >>> id, round(mu, 3)
    (0, 2.058)
    """
    k = mirostat_k(np.sort(probabilities(z))[::-1], mu, m)
    return _surprised(top_k(z, k), us, mu, tau, eta)


def mirostat_k(p: Float[np.ndarray, " V"], mu: float, m: int) -> int:
    """The k of mirostat for probabilities sorted down.

    >>> mirostat_k(np.array([0.6, 0.2, 0.1, 0.06, 0.04]), 2.0, 100)
    2
    """
    V, left = len(p), int((p > 0).sum())
    p = p[: min(m, left)]
    t = np.log(np.arange(2, len(p) + 1) / np.arange(1, len(p)))
    s = float(t @ np.log(p[:-1] / p[1:]) / (t @ t)) if len(p) > 1 else 0.0
    if s <= 1e-9:
        return left
    eps = s - 1
    decay = -math.expm1(-eps * math.log(V)) / eps if eps else math.log(V)
    log2_k = (mu - math.log2(decay)) / s  # k = (2^mu eps / (1 - V^-eps))^(1/s)
    return left if log2_k > 30 else min(left, max(1, int(2**log2_k)))


@strategy("C16", "mirostat 2.0", kind="selector", sampling=True, when=("mirostat", 2))
@fields(also=("mirostat_tau", "mirostat_eta"))
@fields(start=lambda context, tau, eta: 2 * tau)
@example(mirostat=2, mirostat_tau=1.0)
def mirostat_v2(
    z: Logits, us: Float[np.ndarray, " V"], mu: float, tau: float, eta: float
) -> tuple[int, float]:
    """Keeps the surprise S of the text at tau bits, directly: keep -log2 p <= mu, or
    the top; mu' = mu - eta (S - tau).

    Returns the token and mu'. S is the surprise of the token after truncation, as in
    llama.cpp and text-generation-webui (Aphrodite takes it before). mu starts at 2 tau.
    Source: Basu et al., "Mirostat" (2020, arXiv:2007.14966).

    >>> z = np.log(np.array([0.6, 0.3, 0.1]))
    >>> id, mu = mirostat_v2(z, np.array([0.5, 0.9, 0.5]), 2.0, 1.0, 0.1)
    >>> id, round(mu, 4)  # S = log2(0.9 / 0.3)
    (1, 1.9415)
    """
    return _surprised(minimal_surprise(z, mu), us, mu, tau, eta)


def _surprised(
    z: np.ndarray, us: np.ndarray, mu: float, tau: float, eta: float
) -> tuple[int, float]:
    id = gumbel_max(z, us)
    surprise = -float(log_probabilities(z)[id]) / math.log(2)
    return id, mu - eta * (surprise - tau)


@strategy("C17", "adaptive-p", kind="selector", sampling=True)
@parameter("adaptive_target", -1.0, "Below 0 is off.", -1, 1)
@parameter("adaptive_decay", 0.9, "Memory of the mean.", 0, 0.99)
@fields(start=lambda context, target, decay: adaptive_start(target, decay))
@example(adaptive_target=0.3)
def adaptive_p(
    z: Logits,
    us: Float[np.ndarray, " V"],
    state: tuple[float, float],
    target: float,
    decay: float,
) -> tuple[int, tuple[float, float]]:
    """Favours tokens near a target probability, over time: x = |p - t| / 0.3, z' = 5 -
    10 x^2 / (1 + x), t from the mean of past p.

    With state (w, W): t = clip(2 target - w/W, 0, 1); draw from softmax(z') of what is
    left; then w' = p(token) + decay w, W' = 1 + decay W with the p before z'. A
    negative target draws from z. Starts at (target, 1) / (1 - decay). Source: llama.cpp
    (2025), no paper.

    >>> z = np.log(np.array([0.7, 0.3]))
    >>> us = np.array([0.9999, 0.5])  # the favoured token is 1
    >>> id, (w, W) = adaptive_p(z, us, adaptive_start(0.3, 0.9), 0.3, 0.9)
    >>> id, round(w / W, 4)
    (0, 0.34)
    """
    p = probabilities(z)
    if target < 0:
        id = gumbel_max(z, us)
    else:
        w, W = state
        aim = min(max(2 * target - w / W, 0.0), 1.0)
        x = np.abs(p - aim) / 0.3
        id = gumbel_max(np.where(z > -np.inf, 5 - 10 * x**2 / (1 + x), -np.inf), us)
    return id, (float(p[id]) + decay * state[0], 1 + decay * state[1])


def adaptive_start(target: float, decay: float) -> tuple[float, float]:
    """The state of adaptive-p before the first token.

    >>> adaptive_start(0.5, 0.5)
    (1.0, 2.0)
    """
    return max(target, 0.0) / (1 - decay), 1 / (1 - decay)
