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

from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, prange

from npgpt import ops
from npgpt.kernels.amx import block, configure, release
from npgpt.kernels.compiling import LOCK, inner_kernel, kernel, stay_apart
from npgpt.kernels.elementwise import line
from npgpt.kernels.packed import (
    PANEL,
    Packed,
    bfloat16_of,
    empty,
    padded,
    zeros,
)
from npgpt.kernels.tiers import isa as tier_isa
from npgpt.kernels.vector import AMX, AVX512, BF16, GROUP, ONE, TWO, tiles
from npgpt.shapes import Array, Float

ROWS = 192  # rows of a block: 192 x 256 float32 inputs are 196 KB, in the second cache
DEPTH = 192  # inputs of a block: 24 KB of two panels, in the first cache
FEW = 12  # rows of the tallest tile
SMALL = 8  # rows up to which a product is decoding, and bound by the weights' bytes


class Inputs(NamedTuple):
    """Rows of a product: float32, and what `narrow_row` makes of them."""

    a: np.ndarray  # (M, K)
    q: np.ndarray  # (M, K) int8, or uint16 for bfloat16; without rows where a is used
    q_scale: np.ndarray  # (M, K / 64), for int8
    q_start: np.ndarray  # (M, K / 64): -128 x sums of groups


class Matrix(NamedTuple):
    """A packed matrix within larger arrays."""

    data: np.ndarray
    at: int  # its first number in data, and in scales
    scales: np.ndarray
    scales_at: int
    K: int  # inputs, with the filling
    m: int  # outputs


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
            _narrow_rows(a, *narrowed)
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


def whole_rows(M: int) -> int:
    """Rows of the arrays for M rows: whole tiles, where tiles may be used.

    >>> whole_rows(3), whole_rows(17)
    (3, 32)
    """
    return M if M <= SMALL else -(-M // 16) * 16


def new_narrowed(
    M: int, K: int, dtype: str, isa: tuple, is_prompt: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for M rows of inputs in the form that products with this dtype take.

    Numbers, scales, and -128 x sums of groups; no rows where float32 is taken. There
    may be more rows than M, and more numbers a row than K.
    """
    is_int8 = dtype == "int8"
    used = is_int8 or (dtype == "bfloat16" and is_prompt and len(isa) >= BF16)
    rows, groups = M if used else 0, K // GROUP if is_int8 else 0
    # 64 bytes more than K: tiles whose rows share cache sets would evict each other
    kind = np.int8 if is_int8 else np.uint16
    q = empty((whole_rows(rows), K + 64 // np.dtype(kind).itemsize), kind)
    scales, starts = (np.zeros((len(q), groups), t) for t in (np.float32, np.int32))
    return q, scales, starts


@inner_kernel
def narrow_row(inputs, r):
    """One row of inputs.a -> int8 with a scale for every 64 numbers, or bfloat16."""
    stay_apart()
    if inputs.q.itemsize == 1:
        _quantise_row(inputs, r)
    else:
        bits, q = inputs.a[r].view(np.uint32), line(inputs.q, r)
        for k in range(len(q)):
            q[k] = bfloat16_of(bits[k])


@inner_kernel
def _quantise_row(inputs, r):
    stay_apart()
    x, q, scales = inputs.a[r], line(inputs.q, r), inputs.q_scale[r]
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
def strip_size(panels, M, threads):
    """Panels of a strip of a product with M rows, two at a time.

    Decoding waits for memory, and at its end for the other threads: small strips. In
    prompts a strip's rows are read anew for each strip: larger ones.
    """
    tasks = 8 * threads if M <= FEW else 4 * threads
    return max(2, min(16, panels // tasks) // 2 * 2)


@inner_kernel
def strip(isa, matrix, first, last, top, bottom, inputs, c):
    """c[top:bottom] of the panels first .. last - 1."""
    stay_apart()
    if inputs.q.shape[0] == 0:
        _vector_strip(isa, matrix, first, last, top, bottom, inputs, inputs.a, c)
    elif len(isa) >= AMX and inputs.q.shape[0] > SMALL:
        _tile_strip(isa, matrix, first, last, top, bottom, inputs, c)
    else:
        _vector_strip(isa, matrix, first, last, top, bottom, inputs, inputs.q, c)


@inner_kernel
def _vector_strip(isa, matrix, first, last, top, bottom, inputs, x, c):
    """By vectors, from the rows of x, which is inputs.a or inputs.q."""
    stay_apart()
    middle = first
    if len(isa) >= AVX512:
        middle = last - (last - first) % 2
    # A few rows: each panel from front to back, in the order in which memory has it
    step = 2 if bottom - top <= FEW else max(2, middle - first)
    for p in range(first, middle, step):
        most = min(middle, p + step)
        _sweep(isa, TWO, matrix, p, most, top, bottom, inputs, x, c)
    _sweep(isa, ONE, matrix, middle, last, top, bottom, inputs, x, c)


@inner_kernel
def _sweep(isa, width, matrix, first, last, top, bottom, inputs, x, c):
    """Tiles of one or two panels: their rows stay in the first cache meanwhile."""
    stay_apart()
    data, scales, K = matrix.data, matrix.scales, matrix.K
    item, panel = data.itemsize, K * PANEL * data.itemsize
    base = data.ctypes.data + matrix.at * item
    base_scale = scales.ctypes.data + matrix.scales_at * scales.itemsize
    scale_base, start_base = inputs.q_scale.ctypes.data, inputs.q_start.ctypes.data
    g_row, x_row, c_row = inputs.q_scale.strides[0], x.strides[0], c.strides[0]
    depth = K if bottom - top <= 4 else DEPTH * 4 // item
    for k0 in range(0, K, depth):
        k = min(depth, K - k0)
        # The first rows ask for the next panels; the others, for whom the panels are
        # in the cache, have the memory to themselves: for the next inputs' weights, or
        # (where all rows are one block) the next strip's.
        size = k * PANEL * item
        ahead, pace, left = max(1, len(width)) * panel, 64, (bottom - top - 1) // FEW
        far = size if k0 + k < K else (last - first) * panel - k0 * PANEL * item
        r = top
        while r < bottom:
            taken = np.int64(0)
            for p in range(first, last, max(1, len(width))):
                taken = tiles(
                    isa,
                    data,
                    x,
                    width,
                    bottom - r,
                    base + p * panel + k0 * PANEL * item,
                    panel,
                    base_scale + (p * K + k0) // GROUP * PANEL * scales.itemsize,
                    x.ctypes.data + r * x_row + k0 * x.itemsize,
                    x_row,
                    4,
                    scale_base + r * g_row + k0 // GROUP * 4,
                    start_base + r * g_row + k0 // GROUP * 4,
                    g_row,
                    c.ctypes.data + r * c_row + p * PANEL * 4,
                    c_row,
                    k,
                    min(k0, 1),
                    ahead,
                    pace,
                )
            if taken == 0:
                break
            r += taken
            ahead, pace = far, (64 + left - 1) // max(1, left)
            far += size // 64 * pace


@inner_kernel
def _tile_strip(isa, matrix, first, last, top, bottom, inputs, c):
    """By tiles of 16 rows: arrays have room for whole ones (see `whole_rows`)."""
    stay_apart()
    data, scales, K, q = matrix.data, matrix.scales, matrix.K, inputs.q
    item = data.itemsize
    base, panel = data.ctypes.data + matrix.at * item, K * PANEL * item
    base_scale = scales.ctypes.data + matrix.scales_at * scales.itemsize
    scale_panel = K // GROUP * PANEL * scales.itemsize
    configure(isa)
    for p in range(first, last, 2):
        panels = min(2, last - p)
        for r in range(top, bottom, 32):
            rows = 2 if bottom - r > 16 else 1
            block(
                isa,
                data,
                rows,
                panels,
                q.ctypes.data + r * q.strides[0],
                q.strides[0],
                inputs.q_scale.ctypes.data + r * inputs.q_scale.strides[0],
                inputs.q_scale.strides[0],
                base + p * panel,
                panel,
                base_scale + p * scale_panel,
                scale_panel,
                c.ctypes.data + r * c.strides[0] + p * PANEL * 4,
                c.strides[0],
                K,
            )
    release(isa)


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


@kernel(parallel=True)
def _narrow_rows(a, q, scales, starts):
    M, K = a.shape
    for r in prange(M):
        narrow_row(Inputs(a, q[:M, :K], scales[:M], starts[:M]), r)
