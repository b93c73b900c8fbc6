"""Numba twins of npgpt.training.backward: what is not a product, and the rest as it is.

What they do differently. The reference writes an array for every step of a formula and
reads it again for the next. Here a number, or a row that stays in the cache, meets
the whole formula at once. Sums over rows (a norm's weight and bias) are made piece by
piece and added in a fixed order, so the same step gives the same bits however the
threads were scheduled. Products of large matrices stay with NumPy's BLAS. Attention's
twin is in kernels/attention_backward.py.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from npgpt.kernels.attention_backward import attention, split_heads
from npgpt.kernels.compiling import LOCK, kernel
from npgpt.kernels.elementwise import SQRT_2_PI, exp
from npgpt.shapes import Array, Float, Int
from npgpt.training import backward as reference
from npgpt.training import blocked_backward
from npgpt.training.backward import (
    attention_means,
    attention_scores,
    softmax,
)

__all__ = [
    "attention",
    "attention_means",
    "attention_scores",
    "cross_entropy",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "softmax",
    "split_heads",
]

PIECE = 4096  # numbers that a thread takes at once
PIECES = 16  # of a sum over all rows
STRIP = 64  # columns of a table that a thread takes at once


def gelu(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Gradient of GELU: dx = dy (1 + t + x (1 - t^2) u') / 2, t = tanh u.

    With s = (1 + t) / 2 = 1 / (1 + e^(-2u)) this is dy (s + 2 x s (1 - s) u'). As
    npgpt.training.backward.gelu, which computes what is not float32.

    >>> gelu(np.ones(3, np.float32), np.float32([-1, 0, 1])).astype(float).round(4)
    array([-0.083,  0.5  ,  1.083])
    """
    dy, x = np.asarray(dy), np.asarray(x)
    if {dy.dtype, x.dtype} != {np.dtype(np.float32)} or not x.size:
        return reference.gelu(dy, x)
    if dy.shape != x.shape:
        raise ValueError(f"gelu: dy {dy.shape} and x {x.shape} differ")
    dx = np.empty(x.shape, np.float32)
    with LOCK:
        _gelu(
            np.ascontiguousarray(dy).reshape(-1),
            np.ascontiguousarray(x).reshape(-1),
            dx.reshape(-1),
        )
    return dx


@kernel(parallel=True)
def _gelu(dy, x, dx):
    one, two = np.float32(1), np.float32(2)
    for piece in prange((len(x) + PIECE - 1) // PIECE):
        for i in range(piece * PIECE, min(len(x), (piece + 1) * PIECE)):
            square = np.float32(0.044715) * x[i] * x[i]
            u = SQRT_2_PI * x[i] * (one + square)
            slope = SQRT_2_PI * (one + np.float32(3) * square)
            s = one / (one + exp(-two * u))
            dx[i] = dy[i] * (s + two * x[i] * s * (one - s) * slope)


def layer_norm(
    dy: Float[Array, "*batch C"],
    x: Float[Array, "*batch C"],
    weight: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*batch C"], Float[Array, " C"], Float[Array, " C"]]:
    """Gradients of x, weight and bias: dx = (g - mean g - n mean(g n)) / sqrt(s + e).

    As npgpt.training.backward.layer_norm, which computes what is not float32.

    >>> x, one = np.float32([[1, 2, 3, 4]]), np.ones(4, np.float32)
    >>> dx, _, _ = layer_norm(np.float32([[1, 0, 0, 0]]), x, one)
    >>> dx.astype(float).round(4).tolist()
    [[0.2683, -0.3578, -0.0894, 0.1789]]
    """
    dy, x, weight = np.asarray(dy), np.asarray(x), np.asarray(weight)
    kinds = {dy.dtype, x.dtype, weight.dtype}
    if kinds != {np.dtype(np.float32)} or x.ndim < 1 or not x.size:
        return reference.layer_norm(dy, x, weight, epsilon)
    C = x.shape[-1]
    if dy.shape != x.shape or weight.shape != (C,):
        raise ValueError(f"layer_norm: {dy.shape}, {x.shape} and {weight.shape}")
    dx = np.empty(x.shape, np.float32)
    sums = np.zeros((2, PIECES, C), np.float32)
    with LOCK:
        _layer_norm(
            np.ascontiguousarray(dy).reshape(-1, C),
            np.ascontiguousarray(x).reshape(-1, C),
            np.ascontiguousarray(weight),
            np.float32(epsilon),
            dx.reshape(-1, C),
            sums,
        )
    dweight, dbias = sums.sum(axis=1)
    return dx, dweight, dbias


@kernel(parallel=True)
def _layer_norm(dy, x, weight, epsilon, dx, sums):
    rows, C = x.shape
    size = (rows + PIECES - 1) // PIECES
    inverse_c = np.float32(1) / np.float32(C)
    for piece in prange(PIECES):
        dweight, dbias = sums[0, piece], sums[1, piece]
        for r in range(piece * size, min(rows, (piece + 1) * size)):
            a, d, out = x[r], dy[r], dx[r]
            mean = np.float32(0)
            for i in range(C):
                mean += a[i]
            mean *= inverse_c
            variance = np.float32(0)
            for i in range(C):
                variance += (a[i] - mean) * (a[i] - mean)
            scale = np.float32(1) / np.sqrt(variance * inverse_c + epsilon)
            level, along = np.float32(0), np.float32(0)
            for i in range(C):
                n, g = (a[i] - mean) * scale, d[i] * weight[i]
                level += g
                along += g * n
                dweight[i] += d[i] * n
                dbias[i] += d[i]
            level *= inverse_c
            along *= inverse_c
            for i in range(C):
                n, g = (a[i] - mean) * scale, d[i] * weight[i]
                out[i] = (g - level - n * along) * scale


def cross_entropy(
    z: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    *,
    ignore_index: int | None = None,
    count: int | None = None,
) -> tuple[float, Float[Array, "*batch V"]]:
    """Loss and gradient of the logits together: dz = (softmax(z) - onehot(target)) / n.

    As npgpt.training.backward.cross_entropy, which computes what is not float32. Raises
    ValueError for a target outside [0, V).

    >>> loss, dz = cross_entropy(np.zeros((1, 2), np.float32), np.array([1]))
    >>> round(loss, 4), dz.tolist()
    (0.6931, [[0.5, -0.5]])
    """
    z, targets = np.asarray(z), np.asarray(targets)
    if z.dtype != np.float32 or targets.dtype.kind not in "iu" or not z.size:
        return reference.cross_entropy(
            z, targets, ignore_index=ignore_index, count=count
        )
    V = z.shape[-1]
    if targets.shape != z.shape[:-1]:
        raise ValueError(f"cross_entropy: logits {z.shape}, targets {targets.shape}")
    ids = targets.reshape(-1).astype(np.int64)
    if ignore_index is not None:
        ids[ids == ignore_index] = -1
    elif ids.min() < 0:
        raise ValueError(f"cross_entropy: a target is not in 0 .. {V - 1}")
    if ids.min() < -1 or ids.max() >= V:
        raise ValueError(f"cross_entropy: a target is not in 0 .. {V - 1}")
    n = max(1, int((ids >= 0).sum()) if count is None else count)
    dz, losses = np.empty(z.shape, np.float32), np.empty(len(ids), np.float64)
    with LOCK:
        rows = np.ascontiguousarray(z).reshape(-1, V)
        _cross_entropy(rows, ids, np.float32(1 / n), dz.reshape(-1, V), losses)
    return float(losses.sum()) / n, dz


@kernel(parallel=True)
def _cross_entropy(z, targets, share, dz, losses):
    for r in prange(len(z)):
        row, out, target = z[r], dz[r], targets[r]
        if target < 0:
            losses[r] = 0.0
            for i in range(len(row)):
                out[i] = np.float32(0)
            continue
        top = -np.inf
        for i in range(len(row)):
            top = max(top, row[i])
        total = np.float64(0)
        for start in range(0, len(row), 1024):  # long float32 sums would lose digits
            part = np.float32(0)
            for i in range(start, min(start + 1024, len(row))):
                e = exp(row[i] - np.float32(top))
                out[i] = e
                part += e
            total += part
        losses[r] = top + np.log(total) - row[target]
        factor = np.float32(share / total)
        for i in range(len(row)):
            out[i] *= factor
        out[target] -= share


def embedding(
    dy: Float[Array, "*batch C"], ids: Int[Array, "*batch"], rows: int
) -> Float[Array, "V C"]:
    """Gradient of a table of `rows` rows: row v is the sum of dy where ids = v.

    As npgpt.training.backward.embedding, which computes what is not float32. Raises
    ValueError for an id outside [0, rows).

    >>> embedding(np.float32([[1], [2], [4]]), np.array([2, 0, 2]), 3).tolist()
    [[2.0], [0.0], [5.0]]
    """
    dy, ids = np.asarray(dy), np.asarray(ids)
    if dy.dtype != np.float32 or ids.dtype.kind not in "iu" or not dy.size:
        return reference.embedding(dy, ids, rows)
    if ids.shape != dy.shape[:-1]:
        raise ValueError(f"embedding: dy {dy.shape}, ids {ids.shape}")
    flat = ids.reshape(-1).astype(np.int64)
    if flat.min() < 0 or flat.max() >= rows:
        raise ValueError(f"embedding: an id is not in 0 .. {rows - 1}")
    C = dy.shape[-1]
    dweight = np.zeros((rows, C), np.float32)
    with LOCK:
        _embedding(np.ascontiguousarray(dy).reshape(-1, C), flat, dweight)
    return dweight


@kernel(parallel=True)
def _embedding(dy, ids, dweight):
    C = dy.shape[1]
    for strip in prange((C + STRIP - 1) // STRIP):
        first, last = strip * STRIP, min(C, (strip + 1) * STRIP)
        for r in range(len(ids)):
            row, total = dy[r, first:last], dweight[ids[r], first:last]
            for i in range(last - first):
                total[i] += row[i]


def linear(
    dy: Float[Array, "*batch m"],
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    has_bias: bool = True,
) -> tuple[Float[Array, "*batch n"], Float[Array, "n m"], Float[Array, " m"] | None]:
    """Gradients of y = x W + b: dx = dy W^T, dW = x^T dy, db = sum dy over all rows.

    The products are blocked_backward's; db is a pass over dy by all threads.

    >>> one = np.ones((1, 1), np.float32)
    >>> [g.item() for g in linear(2 * one, 3 * one, 5 * one)]
    [10.0, 6.0, 2.0]
    """
    dy = np.asarray(dy)
    if dy.dtype != np.float32 or dy.ndim < 1 or not dy.size:
        return reference.linear(dy, x, weight, has_bias)
    dx, dweight, _ = blocked_backward.linear(dy, x, weight, has_bias=False)
    if not has_bias:
        return dx, dweight, None
    return dx, dweight, sum_rows(np.ascontiguousarray(dy).reshape(-1, dy.shape[-1]))


def sum_rows(x: Float[np.ndarray, "M n"]) -> Float[np.ndarray, " n"]:
    """Sum over the rows of a contiguous float32 array, in one order by any threads.

    >>> sum_rows(np.ones((3, 2), np.float32)).tolist()
    [3.0, 3.0]
    """
    sums = np.zeros((PIECES, x.shape[1]), np.float32)
    with LOCK:
        _sum_rows(x, sums)
    return sums.sum(axis=0)


@kernel(parallel=True)
def _sum_rows(x, sums):
    """Sums of as many parts of the rows as sums has."""
    M, parts = len(x), len(sums)
    size = (M + parts - 1) // parts
    for part in prange(parts):
        total = sums[part]
        for r in range(part * size, min(M, (part + 1) * size)):
            row = x[r]
            for j in range(len(total)):
                total[j] += row[j]
