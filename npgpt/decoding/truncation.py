"""Temperature and the truncations: rules that look at the logits alone.

Each is its formula, z (V,) -> z (V,). A truncation keeps tokens by a threshold on
their logit, so tokens with equal logits are kept or removed together.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from npgpt.decoding.rules import keep, probabilities

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float


def temperature(z: Float[np.ndarray, " V"], T: float) -> Float[np.ndarray, " V"]:
    """Sharper (T < 1) or flatter (T > 1): z / T. T must be positive.

    Source: Ackley, Hinton and Sejnowski, "A Learning Algorithm for Boltzmann Machines"
    (1985).

    >>> temperature(np.array([1.0, 2.0]), 0.5).tolist()
    [2.0, 4.0]
    """
    with np.errstate(all="ignore"):
        scaled = np.where(z > -np.inf, z / T, z)  # -inf / inf would be NaN
    if not np.isfinite(scaled.max()) and np.isfinite(z.max()):
        return np.where(
            z == z.max(), z, z.dtype.type(-np.inf)
        )  # T too small for floats
    return scaled


def top_k(z: Float[np.ndarray, " V"], k: int) -> Float[np.ndarray, " V"]:
    """The k largest logits: keep z >= the k-th largest.

    Ties with the k-th are all kept. Source: Fan, Lewis and Dauphin, "Hierarchical
    Neural Story Generation" (2018).

    >>> top_k(np.array([1.0, 3.0, 2.0]), 2).tolist()
    [-inf, 3.0, 2.0]
    """
    if k >= len(z):
        return z
    return keep(z, z >= np.partition(z, -k)[-k])


def top_p(z: Float[np.ndarray, " V"], p: float) -> Float[np.ndarray, " V"]:
    """The nucleus: the smallest set of most probable tokens that reaches probability p.

    A token is kept if the mass of all more probable ones is below p, so the token that
    crosses the line is in (OpenAI's own code left it out); p = 0 keeps the top one.
    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2019).

    >>> top_p(np.log(np.array([0.1, 0.5, 0.4])), 0.6).round(4).tolist()
    [-inf, -0.6931, -0.9163]
    """
    if p >= 1:
        return z
    order = np.sort(z[z > -np.inf])[::-1]
    mass = probabilities(order)
    before = np.cumsum(mass) - mass
    kept = max(1, int((before < p).sum()))
    return keep(z, z >= order[kept - 1])
