"""Training's products by bfloat16 instructions: packed for one use, summed in float32.

What it does differently. The reference rounds with NumPy and multiplies the rounded
numbers in float32. Here rows are rounded on their way into the packed form that the
product's instructions read anyway (npgpt.kernels.packed, npgpt.kernels.amx), so a
product on a tile unit costs little more than to read and write its arrays once. dW =
x^T dy sums over the rows: x is turned as it is rounded, and dy is packed as a weight
would be.

Where the processor multiplies no pairs of bfloat16, and for a few rows, the reference
runs.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from npgpt.kernels.backward import sum_rows
from npgpt.kernels.compiling import LOCK, kernel
from npgpt.kernels.linear import linear as packed_linear
from npgpt.kernels.linear import multiply
from npgpt.kernels.narrow import SMALL, new_narrowed
from npgpt.kernels.packed import bfloat16_of, pack, padded
from npgpt.kernels.tiers import BF16, isa
from npgpt.shapes import Array, Float
from npgpt.training import mixed as reference

KIND = "bfloat16"
ACROSS, DOWN = 64, 64  # numbers that are turned at a time


def linear(
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    bias: Float[Array, " m"] | None = None,
) -> Float[Array, "*batch m"]:
    """Affine map y = x W + b of rounded x and W.

    As npgpt.training.mixed.linear, which computes what does not fit the instructions.

    >>> linear(np.full((9, 1), 1.001, np.float32), np.float32([[3.0]]))[0].tolist()
    [3.0]
    """
    if not _fits(x, weight):
        return reference.linear(x, weight, bias)
    return packed_linear(x, pack(weight, KIND), bias)


def linear_backward(
    dy: Float[Array, "*batch m"],
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    has_bias: bool = True,
) -> tuple[Float[Array, "*batch n"], Float[Array, "n m"], Float[Array, " m"] | None]:
    """Gradients dx = dy W^T, dW = x^T dy of rounded arrays, and db = sum dy.

    As npgpt.training.mixed.linear_backward, which computes what does not fit the
    instructions.

    >>> ones = np.ones((9, 2), np.float32)
    >>> [g.shape for g in linear_backward(ones[:, :1], ones, np.ones((2, 1), "f4"))]
    [(9, 2), (2, 1), (1,)]
    """
    fits = _fits(dy, weight.T) and _fits(x, weight)
    if not fits or x.shape[:-1] != dy.shape[:-1]:
        return reference.linear_backward(dy, x, weight, has_bias)
    n, m = weight.shape
    changes = np.ascontiguousarray(dy).reshape(-1, m)
    rows = np.ascontiguousarray(x).reshape(-1, n)
    M, tier = len(rows), isa(KIND)
    dx = packed_linear(changes, pack(weight.T, KIND)).reshape(x.shape)
    turned = new_narrowed(n, padded(M, KIND), KIND, tier, is_prompt=True)
    with LOCK:
        _turn(rows.view(np.uint32), turned[0])
    dweight = multiply(tier, rows, turned, pack(changes, KIND), None, n)
    return dx, dweight, sum_rows(changes) if has_bias else None


def _fits(x: Array, weight: Array) -> bool:
    is_float = x.dtype == weight.dtype == np.float32
    fits = x.ndim >= 1 and weight.ndim == 2 and x.shape[-1] == weight.shape[0]
    many = fits and x.size > SMALL * x.shape[-1] and weight.size
    return bool(is_float and many and len(isa(KIND)) >= BF16)


@kernel(parallel=True)
def _turn(x, q):
    """q[j, r] = bfloat16 of x[r, j], from the bits of x; the filling of q is 0."""
    M, n = x.shape
    for strip in prange((n + ACROSS - 1) // ACROSS):
        first, last = strip * ACROSS, min(n, (strip + 1) * ACROSS)
        block = np.empty((DOWN, ACROSS), np.uint16)  # contiguous, whatever x's stride
        for top in range(0, M, DOWN):
            count = min(DOWN, M - top)
            for r in range(count):
                row, near = x[top + r, first:last], block[r]
                for j in range(last - first):
                    near[j] = bfloat16_of(row[j])
            for j in range(first, last):
                out = q[j, top : top + count]
                for r in range(count):
                    out[r] = block[r, j - first]
        for j in range(first, last):
            q[j, M:] = np.uint16(0)
