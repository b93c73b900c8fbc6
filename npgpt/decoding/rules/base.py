"""What every decoding rule shares: its type, its context, and how a token is removed.

A *rule* (a logits processor or a truncation) is a function (ids, z, context) -> z.
ids are one row's tokens so far, prompt included and without padding; z (V,) are the
logits or what earlier rules made of them, -inf meaning removed. A rule returns a new
array or z itself and never writes into z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from npgpt.decoding import randomness
from npgpt.errors import DecodingError
from npgpt.shapes import Bool, Float, Logits

Ids = Sequence[int]  # of tokens


@dataclass(frozen=True)
class Context:
    """Where a rule stands: the prompt's length, the step, and its random numbers."""

    prompt_length: int
    step: int  # tokens generated before this one
    seed: int = 0
    row: int = 0  # which of the sequences of this prompt
    attempt: int = 0  # how often this token has been taken back
    prefix: bytes = b""  # what the new text has to begin with (token healing)
    # which row of the call: num_return_sequences a prompt, one a prompt with beams
    index: int = 0

    def uniform(self, purpose: int = randomness.TOKEN) -> float:
        """One number in [0, 1) that depends on seed, row, step and purpose alone."""
        return float(self.uniforms(1, purpose)[0])

    def uniforms(self, n: int, purpose: int = randomness.TOKEN) -> np.ndarray:
        """n of them."""
        purpose += self.attempt * randomness.AGAIN
        return randomness.uniforms(self.seed, self.row, self.step, purpose, n)


class Rule(NamedTuple):
    """One element of a chain: its name, its setting, and the function.

    `ends` says of a constraint whether its text is whole and can go on no more; None
    where an end-of-text id says so.
    """

    name: str
    setting: str
    apply: Callable[[Sequence[int], np.ndarray, Context], np.ndarray]
    ends: Callable[[Sequence[int], Context], bool] | None = None

    def __str__(self) -> str:
        return f"{self.name}({self.setting})"


def keep(z: Logits, mask: Bool[np.ndarray, " V"]) -> Logits:
    """z where the mask is true, -inf (removed) elsewhere.

    >>> keep(np.array([1.0, 2.0]), np.array([True, False])).tolist()
    [1.0, -inf]
    """
    return np.where(mask, z, z.dtype.type(-np.inf))


def remaining(z: Logits) -> np.ndarray:
    """The logits of the tokens that have not been removed.

    >>> remaining(np.array([1.0, -np.inf])).tolist()
    [1.0]
    """
    mask = z > -np.inf
    return z if mask.all() else z[mask]


def probabilities(z: Logits) -> Float[np.ndarray, " V"]:
    """softmax in float64, where a removed token has probability 0; checks z first.

    >>> probabilities(np.array([0.0, -np.inf, 0.0])).tolist()
    [0.5, 0.0, 0.5]
    """
    p = np.exp((z - check(z)).astype(np.float64))
    p /= p.sum()
    return p


def log_probabilities(z: Logits) -> Logits:
    """log softmax, -inf where a token has been removed; z's dtype.

    >>> log_probabilities(np.array([1.0, -np.inf, 1.0])).round(4).tolist()
    [-0.6931, -inf, -0.6931]
    """
    d = z - check(z)
    return d - d.dtype.type(np.log(np.exp(d).sum(dtype=np.float64)))


def entropy(z: Logits) -> float:
    """Entropy H = -sum p log p in nats of softmax(z); removed tokens add nothing.

    >>> round(entropy(np.array([0.0, -np.inf, 0.0])), 4)
    0.6931
    """
    d = z - check(z)
    e = np.exp(d)
    total = float(e.sum(dtype=np.float64))
    # H = log total - sum e d / total, where e d is 0 for d = -inf
    np.maximum(d, -1e4, out=d)
    weighted = float((e * d).sum(dtype=np.float64))
    return max(0.0, math.log(total) - weighted / total)


def check(z: Logits) -> np.floating:
    """The largest logit; raises DecodingError where no token can be chosen."""
    top = z.max()
    if np.isfinite(top):
        return top
    if np.isnan(top):
        raise DecodingError(
            "the logits hold NaN; check the weights with `npgpt verify`"
        )
    if top > 0:
        raise DecodingError("a logit is +inf; no distribution follows from it")
    raise DecodingError(
        "every token has been removed (all logits are -inf); loosen the constraints"
    )
