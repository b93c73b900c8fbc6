"""GELU in one pass.

What it does differently. The reference walks over the array eight times and calls
tanh; here one pass computes x / (1 + e^(-2u)), the same function, with a polynomial
exp. Where a whole step is one kernel, GELU is part of the product before it
(npgpt.kernels.phases).
"""

from __future__ import annotations

import numpy as np
from numba import prange

from npgpt import ops
from npgpt.kernels.compiling import LOCK, kernel
from npgpt.kernels.elementwise import gelu_one
from npgpt.shapes import Array, Float

SERIAL = 8192  # numbers, up to which one thread is faster
PIECE = 4096  # numbers that a thread takes at once


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU, tanh form: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    As ops.gelu, which computes what is not float32.

    >>> gelu(np.float32([-1, 0, 1])).astype(float).round(4).tolist()
    [-0.1588, 0.0, 0.8412]
    """
    x = np.asarray(x)
    if x.dtype != np.float32 or not x.size:
        return ops.gelu(x)
    flat = np.ascontiguousarray(x).reshape(-1)
    y = np.empty_like(flat)
    if flat.size <= SERIAL:
        _gelu(flat, y)
    else:
        with LOCK:
            _gelu_parallel(flat, y)
    return y.reshape(x.shape)


@kernel
def _gelu(x, y):
    for i in range(len(x)):
        y[i] = gelu_one(x[i])


@kernel(parallel=True)
def _gelu_parallel(x, y):
    for piece in prange((len(x) + PIECE - 1) // PIECE):
        _gelu(
            x[piece * PIECE : (piece + 1) * PIECE],
            y[piece * PIECE : (piece + 1) * PIECE],
        )
