"""Logits processors: rules that depend on the tokens so far, and nothing they remember.

Each is its formula, (ids, z, ...) -> z.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from npgpt.decoding.rules import Context

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float


def min_new_tokens(
    z: Float[np.ndarray, " V"],
    context: Context,
    minimum: int,
    eos_token_ids: Sequence[int],
) -> Float[np.ndarray, " V"]:
    """No end of text before `minimum` tokens: z[eos] = -inf while the step is below it.

    >>> early = Context(prompt_length=3, step=0)
    >>> min_new_tokens(np.array([1.0, 2.0]), early, 5, [1]).tolist()
    [1.0, -inf]
    """
    if context.step >= minimum:
        return z
    z = z.copy()
    z[list(eos_token_ids)] = -np.inf
    return z
