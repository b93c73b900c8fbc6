"""The affine map, from packed weights: the twin that decides the speed of all.

What it does differently. NumPy hands the product to a BLAS, which must rearrange the
weights into panels for every product with many rows, knows float32 only, and has a
thread pool of its own. Here the panels are there already (npgpt.kernels.packed), as
float32, bfloat16 or int8, and each thread takes the next free strip of them. One row
(decoding) costs one pass over the weights at the speed of memory. Many rows (prompts)
go in blocks: some inputs of a panel, or of two, stay in the first cache while all rows
of the block pass by, as many at a time as fit the registers.

The inputs of int8 weights are rounded to int8. Those of bfloat16 weights stay float32
where a token is decoded; where a prompt is read, and the processor multiplies pairs of
bfloat16 (npgpt.kernels.tiers), they are rounded to bfloat16, by 2^-8 at most.

npgpt.kernels.ladder has the steps on the way to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_num_threads, prange

from npgpt import ops
from npgpt.kernels.compiling import LOCK, kernel
from npgpt.kernels.narrow import SMALL, Inputs, narrow_all, new_narrowed, whole_rows
from npgpt.kernels.packed import PANEL, Packed, empty, padded, zeros
from npgpt.kernels.strips import ROWS, Matrix, strip, strip_size
from npgpt.kernels.tiers import isa as tier_isa
from npgpt.shapes import Array, Float


def linear(
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"] | Packed,
    bias: Float[Array, " m"] | None = None,
) -> Float[Array, "*batch m"]:
    """Affine map y = x W + b; W is (inputs, outputs), as GPT-2's checkpoints store it.

    A Packed weight runs here and gives float32; the product with a plain array is
    NumPy's business.

    >>> from npgpt.kernels.packed import pack
    >>> x, w = np.float32([[1, 2]]), pack(np.eye(2, dtype=np.float32), "float32")
    >>> linear(x, w, np.float32([10, 20])).tolist()
    [[11.0, 22.0]]
    """
    if not isinstance(weight, Packed):
        return _plain(x, weight, bias)
    n, m = weight.shape
    if weight.is_table:
        raise ValueError("a packed table multiplies as table.T")
    if x.shape[-1] != n or (bias is not None and bias.shape != (m,)):
        raise ValueError(f"linear: {x.shape} does not fit a weight {weight.shape}")
    rows, isa = np.asarray(x).reshape(-1, n), tier_isa(weight.dtype)
    M, K = len(rows), padded(n, weight.dtype)
    a = rows
    if n < K or a.dtype != np.float32 or not a.flags.c_contiguous:
        a = zeros((M, K), np.float32)
        a[:, :n] = rows
    narrowed = new_narrowed(M, K, weight.dtype, isa, is_prompt=M > SMALL)
    if len(narrowed[0]):
        with LOCK:
            narrow_all(a, *narrowed)
    return multiply(isa, a, narrowed, weight, bias, M).reshape(*x.shape[:-1], m)


def _plain(x: Array, weight: Array, bias: Array | None) -> Array:
    """With an array (training): the bias is added by all threads."""
    kinds = {getattr(array, "dtype", None) for array in (x, weight, bias)}
    if kinds != {np.dtype(np.float32)}:
        return ops.linear(x, weight, bias)
    y = ops.linear(x, weight)
    if bias.shape != y.shape[-1:]:
        raise ValueError(f"linear: bias {bias.shape} does not fit {weight.shape}")
    if y.size:
        with LOCK:
            _add(y.reshape(-1, len(bias)), np.ascontiguousarray(bias))
    return y


def multiply(
    isa: tuple, a: np.ndarray, narrowed: tuple, weight: Packed, bias: Any, M: int
) -> np.ndarray:
    """(M, outputs), from M rows: float32, or what `new_narrowed` has of them."""
    m, K = weight.outputs, padded(weight.inputs, weight.dtype)
    width = -(-m // PANEL) * PANEL
    shift = np.zeros(0 if bias is None else width, np.float32)
    shift[:m] = 0 if bias is None else bias
    c = empty((whole_rows(M), width), np.float32)[:M]
    with LOCK:
        _product(
            isa,
            get_num_threads(),
            weight.data,
            weight.scales,
            K,
            a,
            *narrowed,
            shift,
            c,
        )
    return c if width == m else np.ascontiguousarray(c[:, :m])


@kernel(parallel=True)
def _product(isa, threads, data, scales, K, a, q, q_scale, q_start, bias, c):
    M, panels = c.shape[0], c.shape[1] // PANEL
    blocks = (M + ROWS - 1) // ROWS
    size = strip_size(panels, M, threads)
    strips = (panels + size - 1) // size
    for task in prange(blocks * strips):
        top, first = task % blocks * ROWS, task // blocks * size
        matrix = Matrix(data, np.int64(0), scales, np.int64(0), K, c.shape[1])
        inputs = Inputs(a, q[:M, :K], q_scale[:M], q_start[:M])
        last, bottom = min(panels, first + size), min(M, top + ROWS)
        strip(isa, matrix, first, last, top, bottom, inputs, c)
        shift = bias[first * PANEL : last * PANEL]
        for r in range(top, bottom):
            row = c[r, first * PANEL : last * PANEL]
            for j in range(len(shift)):
                row[j] += shift[j]


@kernel(parallel=True)
def _add(c, bias):
    M, size = len(c), 64
    for piece in prange((M + size - 1) // size):
        for r in range(piece * size, min(M, (piece + 1) * size)):
            row = c[r]
            for j in range(len(bias)):
                row[j] += bias[j]
