"""Softmax in two passes over a row that stays in the cache.

What it does differently. The reference makes an array for x - max, one for exp, and
reads each again for the sum and the division: five trips to memory. Here each thread
takes rows; a row is read once from memory, and maximum, exponential, sum and division
meet it in the cache. exp is a polynomial that runs on 8 or 16 numbers at once.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from npgpt import ops
from npgpt.kernels.compiling import LOCK, kernel
from npgpt.kernels.elementwise import exp
from npgpt.shapes import Array, Float

SERIAL = 8192  # numbers, up to which waking a second thread costs more than it saves


def softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Probabilities from scores: p_i = exp(x_i) / sum_j exp(x_j), over the last axis.

    As ops.softmax, which computes what is not float32.

    >>> softmax(np.log(np.float32([1, 2, 1]))).round(6).tolist()
    [0.25, 0.5, 0.25]
    """
    x = np.asarray(x)
    if x.dtype != np.float32 or x.ndim < 1 or not x.size:
        return ops.softmax(x)
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    p = np.empty_like(rows)
    if rows.size <= SERIAL:
        _softmax_rows(rows, p)
    else:
        with LOCK:
            _softmax(rows, p)
    return p.reshape(x.shape)


@kernel
def _softmax_row(x, p):
    top, sane = -np.inf, True
    for i in range(len(x)):
        top = max(top, x[i])
        sane &= x[i] < np.inf  # neither NaN nor +inf
    total = np.float32(0)
    for i in range(len(x)):
        # exp is clamped at e^-87; what is removed must be 0 exactly
        e = exp(x[i] - top)
        e = e if x[i] - top > np.float32(-87) else np.float32(0)
        p[i] = e
        total += e
    if not sane:  # no distribution, as in the reference
        total = np.float32(np.nan)
    inverse = np.float32(1) / total
    for i in range(len(x)):
        p[i] *= inverse


@kernel
def _softmax_rows(x, p):
    for r in range(len(x)):
        _softmax_row(x[r], p[r])


@kernel(parallel=True)
def _softmax(x, p):
    for r in prange(len(x)):
        _softmax_row(x[r], p[r])
