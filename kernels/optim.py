"""AdamW's update in one pass.

What it does differently. The reference reads and writes arrays as large as a weight
twelve times. Here each number of p, m and v is read and written once.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from npgpt.kernels.compiling import LOCK, kernel
from npgpt.shapes import Array, Float
from npgpt.training import optim as reference

PIECE = 16384  # numbers that a thread takes at once


def update(
    p: Float[Array, "*shape"],
    g: Float[Array, "*shape"],
    m: Float[Array, "*shape"],
    v: Float[Array, "*shape"],
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    decay: float,
) -> None:
    """AdamW for one array, in place: p <- p (1 - a d) - a m' / (sqrt(v') + e).

    As npgpt.training.optim.update, which computes what is not float32.

    >>> p, g, m, v = (np.float32([x]) for x in (1, 0.5, 0, 0))
    >>> update(p, g, m, v, 1, 0.1, 0.9, 0.95, 1e-8, 0.0)
    >>> p.astype(float).round(6).tolist()
    [0.9]
    """
    arrays = (p, g, m, v)
    if any(x.dtype != np.float32 or not x.flags.c_contiguous for x in arrays):
        reference.update(p, g, m, v, step, learning_rate, beta1, beta2, epsilon, decay)
        return
    if len({x.shape for x in arrays}) > 1:
        raise ValueError(f"update: shapes {[x.shape for x in arrays]} differ")
    with LOCK:
        _update(
            *(x.reshape(-1) for x in arrays),
            np.float32(beta1),
            np.float32(1 - beta1),
            np.float32(beta2),
            np.float32(1 - beta2),
            np.float32(1 / math.sqrt(1 - beta2**step)),
            np.float32(epsilon),
            np.float32(1 - learning_rate * decay),
            np.float32(learning_rate / (1 - beta1**step)),
        )


@kernel(parallel=True)
def _update(p, g, m, v, b1, c1, b2, c2, inverse, epsilon, keep, rate):
    for piece in prange((len(p) + PIECE - 1) // PIECE):
        for i in range(piece * PIECE, min(len(p), (piece + 1) * PIECE)):
            m[i] = b1 * m[i] + c1 * g[i]
            v[i] = b2 * v[i] + c2 * g[i] * g[i]
            p[i] = p[i] * keep - rate * m[i] / (np.sqrt(v[i]) * inverse + epsilon)
