"""The affine map, from packed weights: the twin that decides the speed of all.

What it does differently. NumPy hands the product to a BLAS, which must rearrange the
weights into panels for every product with many rows, knows float32 only, and has a
thread pool of its own. Here the panels are there already (npgpt.kernels.packed), as
float32, bfloat16 or int8, and each thread takes the next free strip of them. One row
(decoding) costs one pass over the weights at the speed of memory. Many rows (prompts)
go in blocks: 256 inputs of a panel, 16 KB, stay in the first cache while all rows of
the block pass by, six at a time.

A ladder, each rung tested against ops.linear (tests/test_kernels.py) and timed by
`npgpt bench`: `linear_loops` (three loops), `linear_panels` (weights in panels, one
column vector at a time), `linear` (tiles in registers).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from npgpt.kernels.compiling import LOCK, inner_kernel, kernel, stay_apart
from npgpt.kernels.packed import PANEL, Packed, padded, unpack
from npgpt.kernels.tiers import isa as tier_isa
from npgpt.kernels.vector import GROUP, tiles
from numba import prange

from npgpt import ops
from npgpt.ops import Array

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float

ROWS = 192  # rows of a block: 192 x 256 float32 inputs are 196 KB, in the second cache
DEPTH = 256  # inputs of a block


class Inputs(NamedTuple):
    """Rows of a product: float32, and what `quantise_row` makes of them for int8."""

    a: np.ndarray  # (M, K)
    q: np.ndarray  # (M, K) int8
    q_scale: np.ndarray  # (M, K / 64)
    q_start: np.ndarray  # (M, K / 64): -128 x sums of groups


class Matrix(NamedTuple):
    """A packed matrix within larger arrays."""

    data: np.ndarray
    at: int  # its first number in data, and in scales
    scales: np.ndarray
    scales_at: int
    K: int  # inputs, with the filling
    m: int  # outputs


EMPTY_INTS = np.zeros((0, 0), np.int32)
EMPTY_BYTES = np.zeros((0, 0), np.int8)
EMPTY_FLOATS = np.zeros((0, 0), np.float32)


def linear(
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"] | Packed,
    bias: Float[Array, " m"] | None = None,
) -> Float[Array, "*batch m"]:
    """Affine map y = x W + b; W is (inputs, outputs), as GPT-2's checkpoints store it.

    A Packed weight runs here and gives float32; a plain array is NumPy's business.

    >>> from npgpt.kernels.packed import pack
    >>> x, w = np.float32([[1, 2]]), pack(np.eye(2, dtype=np.float32), "float32")
    >>> linear(x, w, np.float32([10, 20])).tolist()
    [[11.0, 22.0]]
    """
    if not isinstance(weight, Packed):
        return ops.linear(x, weight, bias)
    n, m = weight.shape
    if weight.is_table:
        raise ValueError("a packed table multiplies as table.T")
    if x.shape[-1] != n or (bias is not None and bias.shape != (m,)):
        raise ValueError(f"linear: {x.shape} does not fit a weight {weight.shape}")
    rows = np.asarray(x).reshape(-1, n)
    M, K, width = len(rows), padded(n, weight.dtype), -(-m // PANEL) * PANEL
    a = np.zeros((M, K), np.float32)
    a[:, :n] = rows
    c = np.empty((M, width), np.float32)
    with LOCK:
        if weight.dtype == "int8":
            quantised = new_quantised(M, K)
            _quantise_rows(a, *quantised)
        else:
            quantised = EMPTY_BYTES, EMPTY_FLOATS, EMPTY_INTS
        _product(tier_isa(), weight.data, weight.scales, K, a, *quantised, c)
    y = c[:, :m]
    if bias is not None:
        y += bias
    return np.ascontiguousarray(y).reshape(*x.shape[:-1], m)


def linear_loops(x: Any, weight: Packed) -> np.ndarray:
    """First rung of the ladder, for float32: the definition as three loops."""
    c = np.zeros((len(x), weight.outputs), np.float32)
    _loops(np.ascontiguousarray(x), unpack(weight), c)
    return c


def linear_panels(x: Any, weight: Packed) -> np.ndarray:
    """Second rung, for float32: 16 columns at a time, on all cores."""
    K = padded(weight.inputs, weight.dtype)
    panels = weight.data.reshape(-1, K, PANEL)
    c = np.zeros((len(x), len(panels) * PANEL), np.float32)
    with LOCK:
        _panels(np.ascontiguousarray(x), panels, c)
    return c[:, : weight.outputs]


@kernel
def _loops(x, w, c):
    for r in range(len(x)):
        for j in range(w.shape[1]):
            for k in range(w.shape[0]):
                c[r, j] += x[r, k] * w[k, j]


@kernel(parallel=True)
def _panels(x, panels, c):
    for p in prange(len(panels)):
        for r in range(len(x)):
            for k in range(x.shape[1]):
                for j in range(PANEL):
                    c[r, p * PANEL + j] += x[r, k] * panels[p, k, j]


def new_quantised(M: int, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for M rows of int8 activations: numbers, scales, -128 x sums of groups."""
    return (
        np.zeros((M, K), np.int8),
        np.zeros((M, K // GROUP), np.float32),
        np.zeros((M, K // GROUP), np.int32),
    )


@inner_kernel
def quantise_row(inputs, r):
    """One row of inputs.a -> int8 with a scale for every 64 numbers."""
    stay_apart()
    x, q, scales = inputs.a[r], inputs.q[r], inputs.q_scale[r]
    for g in range(len(scales)):
        top = np.float32(0)
        for k in range(g * GROUP, (g + 1) * GROUP):
            top = max(top, abs(x[k]))
        scales[g] = top / np.float32(127)
        inverse = np.float32(0) if top == 0 else np.float32(127) / top
        total = np.int32(0)
        for k in range(g * GROUP, (g + 1) * GROUP):
            number = np.int32(np.rint(x[k] * inverse))
            q[k] = np.int8(number)
            total += number
        inputs.q_start[r, g] = np.int32(-128) * total


@inner_kernel
def columns(m):
    """Columns of a product with the filling of its last panel."""
    return (m + PANEL - 1) // PANEL * PANEL


@inner_kernel
def strip(isa, matrix, first, last, top, bottom, inputs, c):
    """c[top:bottom] of the panels first .. last - 1."""
    stay_apart()
    data, scales, K = matrix.data, matrix.scales, matrix.K
    item, is_int8 = data.itemsize, data.itemsize == 1
    base, panel = data.ctypes.data + matrix.at * item, K * PANEL * item
    base_scale = scales.ctypes.data + matrix.scales_at * 4
    if is_int8:
        a_base, a_row, a_item = inputs.q.ctypes.data, inputs.q.strides[0], 1
    else:
        a_base, a_row, a_item = inputs.a.ctypes.data, inputs.a.strides[0], 4
    scale_base, start_base = inputs.q_scale.ctypes.data, inputs.q_start.ctypes.data
    g_row = inputs.q_scale.strides[0]
    c_base, c_row = c.ctypes.data, c.strides[0]
    most = 4 if is_int8 else 6  # rows that fit the registers
    depth = K if bottom - top <= most else DEPTH * 4 // item
    for k0 in range(0, K, depth):
        k = min(depth, K - k0)
        add = 1 if k0 else 0
        for p in range(first, last):
            b = base + p * panel + k0 * PANEL * item
            b_scale = base_scale + (p * K + k0) // GROUP * PANEL * 4
            r = top
            while r < bottom:
                x = a_base + r * a_row + k0 * a_item
                xs = scale_base + r * g_row + k0 // GROUP * 4
                xt = start_base + r * g_row + k0 // GROUP * 4
                y = c_base + r * c_row + p * PANEL * 4
                r += tiles(
                    isa, data, min(most, bottom - r), b, b_scale, x, a_row, xs, xt,
                    g_row, y, c_row, k, add,
                )  # fmt: skip


@kernel(parallel=True)
def _product(isa, data, scales, K, a, q, q_scale, q_start, c):
    M, panels = c.shape[0], c.shape[1] // PANEL
    blocks = (M + ROWS - 1) // ROWS
    size = max(1, min(16, panels // 8))
    strips = (panels + size - 1) // size
    for task in prange(blocks * strips):
        top, first = task // strips * ROWS, task % strips * size
        matrix = Matrix(data, np.int64(0), scales, np.int64(0), K, c.shape[1])
        strip(
            isa, matrix, first, min(panels, first + size), top, min(M, top + ROWS),
            Inputs(a, q, q_scale, q_start), c,
        )  # fmt: skip


@kernel(parallel=True)
def _quantise_rows(a, q, scales, starts):
    for r in prange(len(a)):
        quantise_row(Inputs(a, q, scales, starts), r)
