"""Dropout as a tap: numbers are zeroed at random on their way through the model.

The forward pass knows nothing of it. This tap multiplies where GPT-2 was trained with
dropout: the embeddings, the attention's probabilities, and what each half of a block
adds. Its `backward` multiplies the gradients by the same numbers, which are not kept
but drawn again: they depend on seed, step and name alone.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting" (2014).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from npgpt import ops
from npgpt.shapes import Array

PLACES = ("embed", "attn.weights", "attn.out", "mlp.out")


class Dropout:
    """A tap that keeps each number with probability 1 - rate, divided by 1 - rate.

    >>> import numpy as np
    >>> drop = Dropout(0.5, seed=0, step=0)
    >>> drop("embed", np.ones(6)).tolist()
    [0.0, 2.0, 0.0, 0.0, 0.0, 2.0]
    """

    def __init__(self, rate: float, seed: int, step: int):
        self.rate, self.seed, self.step = rate, seed, step

    def wants(self, name: str) -> bool:
        """Whether this intermediate is thinned out."""
        return self.rate > 0 and name.endswith(PLACES)

    def __call__(self, name: str, array: Array) -> Array:
        """The array, thinned out where this is one of the places."""
        if not self.wants(name):
            return array
        return array * self._factors(name, array)

    def backward(self, name: str, gradient: Array) -> Array:
        """The gradient before the tap: multiplied by the same numbers."""
        return self(name, gradient)

    def _factors(self, name: str, like: Any) -> Array:
        # 16 bits decide, so rates are multiples of 1/65536
        philox = np.random.Philox(
            key=self.seed, counter=[0, self.step, zlib.crc32(name.encode()), 0]
        )
        bits = philox.random_raw(-(-like.size // 4)).view(np.uint16)[: like.size]
        kept = (bits >= round(self.rate * 65536)).reshape(like.shape)
        xp = ops.namespace(like)
        factors = xp.astype(xp.asarray(kept), like.dtype)
        factors *= 1 / (1 - self.rate)
        return factors
