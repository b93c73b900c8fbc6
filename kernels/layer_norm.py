"""Layer norm, a row at a time.

What it does differently. The reference writes five arrays as large as x on its way.
Here a row of C numbers stays in the first cache while mean, variance and result are
computed, so memory sees one read and one write.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from npgpt import ops
from npgpt.kernels.compiling import LOCK, inner_kernel, kernel, stay_apart
from npgpt.shapes import Array, Float

SERIAL = 16384  # numbers, up to which one thread is faster


def layer_norm(
    x: Float[Array, "*batch C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> Float[Array, "*batch C"]:
    """Each vector brought to mean 0, variance 1: (x - m) / sqrt(s + e) * w + b.

    As ops.layer_norm, which computes what is not float32.

    >>> one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    >>> y = layer_norm(np.float32([1, 2, 3, 4]), one, zero)
    >>> y.astype(float).round(4).tolist()
    [-1.3416, -0.4472, 0.4472, 1.3416]
    """
    x, weight, bias = np.asarray(x), np.asarray(weight), np.asarray(bias)
    kinds = {x.dtype, weight.dtype, bias.dtype}
    if kinds != {np.dtype(np.float32)} or x.ndim < 1 or not x.size:
        return ops.layer_norm(x, weight, bias, epsilon)
    C = x.shape[-1]
    if weight.shape != (C,) or bias.shape != (C,):
        raise ValueError(f"layer_norm: {x.shape} with {weight.shape} and {bias.shape}")
    rows = np.ascontiguousarray(x).reshape(-1, C)
    weight, bias = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
    y = np.empty_like(rows)
    if rows.size <= SERIAL:
        _norm_rows(rows, weight, bias, np.float32(epsilon), y)
    else:
        with LOCK:
            _norm_rows_parallel(rows, weight, bias, np.float32(epsilon), y)
    return y.reshape(x.shape)


# With fast floats LLVM rounds differently in the loop of single numbers that it runs in
# place of the vectors' wherever `out` lies within 128 bytes behind an input, so a small
# row would depend on where its batch happens to stand in memory.
@inner_kernel(fastmath=False)
def _scaled(x, mean, inverse, weight, bias):
    return (x - mean) * inverse * weight + bias


@inner_kernel
def norm_row(x, weight, bias, epsilon, out):
    """One row of layer_norm."""
    stay_apart()
    C = len(weight)
    mean = np.float32(0)
    for i in range(C):
        mean += x[i]
    mean /= np.float32(C)
    variance = np.float32(0)
    for i in range(C):
        variance += (x[i] - mean) * (x[i] - mean)
    inverse = np.float32(1) / np.sqrt(variance / np.float32(C) + epsilon)
    for i in range(C):
        out[i] = _scaled(x[i], mean, inverse, weight[i], bias[i])


@kernel
def _norm_rows(x, weight, bias, epsilon, y):
    for r in range(len(x)):
        norm_row(x[r], weight, bias, epsilon, y[r])


@kernel(parallel=True)
def _norm_rows_parallel(x, weight, bias, epsilon, y):
    for r in prange(len(x)):
        norm_row(x[r], weight, bias, epsilon, y[r])
