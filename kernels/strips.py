"""A product in strips: some panels of the weights by some rows, a task of one thread.

Some inputs of a panel, or of two, stay in the first cache while all rows of the strip
pass by, as many at a time as fit the registers; tile units take 16 rows at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npgpt.kernels.amx import block, configure, release
from npgpt.kernels.compiling import inner_kernel, stay_apart
from npgpt.kernels.narrow import SMALL
from npgpt.kernels.packed import GROUP, PANEL
from npgpt.kernels.tiers import AMX, AVX512
from npgpt.kernels.vector import ONE, TWO, tiles

ROWS = 192  # rows of a block: 192 x 256 float32 inputs are 196 KB, in the second cache
DEPTH = 192  # inputs of a block: 24 KB of two panels, in the first cache
FEW = 12  # rows of the tallest tile


class Matrix(NamedTuple):
    """A packed matrix within larger arrays."""

    data: np.ndarray
    at: int  # its first number in data, and in scales
    scales: np.ndarray
    scales_at: int
    K: int  # inputs, with the filling
    m: int  # outputs


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
