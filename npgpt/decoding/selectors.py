"""Selectors: how one token is taken from the logits that the chain has left.

Pure functions; those with a memory take it and return it. Which selector runs is
decided in npgpt.decoding.selection, mirostat and adaptive-p are in
npgpt.decoding.feedback.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npgpt.decoding.rules.base import Context, check, probabilities
from npgpt.shapes import Float


def greedy(z: Float[np.ndarray, " V"]) -> int:
    """The most probable token, argmax z; the lowest id wins a tie.

    >>> greedy(np.array([1.0, 3.0, 3.0]))
    1
    """
    check(z)
    return int(z.argmax())


def ancestral(z: Float[np.ndarray, " V"], context: Context) -> int:
    """A draw from softmax(z), by the one uniform number of this step.

    Ancestral (multinomial, "pure") sampling when no rule has changed z.

    >>> ancestral(np.array([0.0, -np.inf]), Context(prompt_length=1, step=0))
    0
    """
    return inverse_cdf(z, context.uniform())


def inverse_cdf(z: Float[np.ndarray, " V"], u: float) -> int:
    """The token whose slice of the cumulative distribution F holds u in [0, 1).

    The first i with F_i > u F_V, so a removed token is never taken. Over uniform u the
    token is a draw from softmax(z).

    >>> z = np.log(np.array([0.2, 0.5, 0.3]))
    >>> inverse_cdf(z, 0.1), inverse_cdf(z, 0.2), inverse_cdf(z, 0.69)
    (0, 1, 1)
    """
    left, F = _cumulative(z)
    i = int(np.searchsorted(F, u * F[-1], side="right"))
    return int(left[min(i, len(left) - 1)])


def _cumulative(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens left (often a handful) and their cumulative probabilities."""
    check(z)
    left = np.flatnonzero(z > -np.inf)
    return left, np.cumsum(probabilities(z[left]))


def gumbel_max(z: Float[np.ndarray, " V"], u: Float[np.ndarray, " V"]) -> int:
    """The largest logit after adding Gumbel noise: argmax z - log(-log u).

    Over uniform u (V,) in [0, 1) the token is a draw from softmax(z), with no need to
    normalise. Source: Gumbel, "Statistical Theory of Extreme Values" (1954).

    >>> gumbel_max(np.array([0.0, 1.0]), np.array([0.9, 0.5]))
    0
    """
    check(z)
    return int(np.argmax(z + gumbel_noise(u)))


def gumbel_noise(u: np.ndarray) -> np.ndarray:
    """Standard Gumbel numbers of uniforms in [0, 1): -log(-log u).

    >>> gumbel_noise(np.array([0.5])).round(4).tolist()
    [0.3665]
    """
    return -np.log(-np.log(np.maximum(u, 2.0**-54)))


def without_replacement(
    z: Float[np.ndarray, " V"], u: Float[np.ndarray, " V"], k: int
) -> list[int]:
    """k draws without replacement, in order: the k largest of z plus Gumbel noise.

    Fewer where fewer tokens are left. An ordered pair has the law p_i p_j / (1 - p_i).
    Source: Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them"
    (2019).

    >>> without_replacement(np.array([0.0, 1.0, -np.inf]), np.array([0.9, 0.5, 0.9]), 3)
    [0, 1]
    """
    check(z)
    order = np.argsort(-(z + gumbel_noise(u)), kind="stable")
    return order[: min(k, int((z > -np.inf).sum()))].tolist()


def arithmetic(z: Float[np.ndarray, " V"], code: float, u: float) -> tuple[int, float]:
    """The token whose slice of F holds the code in [0, 1), and the code within it.

    v with F_(v-1) <= c < F_v, then c' = (c - F_(v-1)) / p_v. A uniform code gives exact
    samples, token after token; N evenly spaced codes share them out: a text of
    probability q is written floor(Nq) or ceil(Nq) times. The division uses up the
    code's bits, so u in [0, 1) fills the ones below its last; it also magnifies
    rounding, so two backends part sooner than with inverse_cdf. Source: Vilnis et al.,
    "Arithmetic Sampling: Parallel Diverse Decoding for Large Language Models" (2023).

    >>> id, code = arithmetic(np.log(np.array([0.25, 0.75])), 0.5, 0.0)
    >>> id, round(code, 4)
    (1, 0.3333)
    """
    left, F = _cumulative(z)
    F = F / F[-1]
    i = min(int(np.searchsorted(F, code, side="right")), len(left) - 1)
    start = F[i - 1] if i else 0.0
    inside = (code - start + u * 2.0**-53) / (F[i] - start)
    return int(left[i]), min(max(float(inside), 0.0), 1 - 2.0**-53)


def forced(z: Float[np.ndarray, " V"], given: Sequence[int], step: int) -> int:
    """Teacher forcing: the given token of this step; after the last, greedy search.

    >>> forced(np.array([0.0, 1.0]), [0], 0), forced(np.array([0.0, 1.0]), [0], 1)
    (0, 1)
    """
    return given[step] if step < len(given) else greedy(z)
