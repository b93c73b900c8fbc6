"""Selectors: how one token is taken from the logits that the chain has left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from npgpt.decoding.rules import check, probabilities

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float


def greedy(z: Float[np.ndarray, " V"]) -> int:
    """The most probable token, argmax z; the lowest id wins a tie.

    >>> greedy(np.array([1.0, 3.0, 3.0]))
    1
    """
    check(z)
    return int(z.argmax())


def inverse_cdf(z: Float[np.ndarray, " V"], u: float) -> int:
    """The token whose slice of the cumulative distribution F holds u in [0, 1).

    The first i with F_i > u F_V, so a removed token is never taken. Over uniform u the
    token is a draw from softmax(z): ancestral (multinomial) sampling.

    >>> z = np.log(np.array([0.2, 0.5, 0.3]))
    >>> inverse_cdf(z, 0.1), inverse_cdf(z, 0.2), inverse_cdf(z, 0.69)
    (0, 1, 1)
    """
    check(z)
    left = np.flatnonzero(z > -np.inf)  # what the truncations left: often a handful
    F = np.cumsum(probabilities(z[left]))
    i = int(np.searchsorted(F, u * F[-1], side="right"))
    return int(left[min(i, len(left) - 1)])
